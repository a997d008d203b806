"""`python -m data_pipelines.synthetic`: see `corpus.py`."""

from data_pipelines.synthetic.corpus import main

if __name__ == "__main__":
    main()
