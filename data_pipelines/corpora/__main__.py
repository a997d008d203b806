"""`python -m data_pipelines.corpora`: see `named_files.py`."""

from data_pipelines.corpora.named_files import main

if __name__ == "__main__":
    main()
