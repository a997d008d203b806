"""Archives are fetched once, checked, and never half there; from a server of the test's own."""

import hashlib
import http.server
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooch
import pytest

from data_pipelines.builders.common.download import CHECKSUMS, Archive, Deposit, download
from data_pipelines.corpora.prepared import dataset_names
from data_pipelines.preparation.prepare import make_builder
from tests.test_prepare import APP, command, noise, report_of
from voc2vec_jax.errors import DONE, FAILED, WRONG_USAGE, DataError


class Server:
    """Serves `files`, by path, and counts what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked.append(path)
                content = outer.files.get(path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.server.shutdown()
    server.server.server_close()
    thread.join()


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/a/cries%20.zip"] = b"cries"
    archive = Archive(f"{server.address}/a/cries%20.zip?dl=1")
    (path,) = download([archive], tmp_path / "new")
    assert path == tmp_path / "new" / "cries .zip"
    assert path.read_bytes() == b"cries"
    recorded = json.loads((tmp_path / "new" / CHECKSUMS).read_text())
    assert recorded == {"cries .zip": f"sha256:{hashlib.sha256(b'cries').hexdigest()}"}
    download([archive], tmp_path / "new")
    assert server.asked == ["/a/cries%20.zip"]


def test_another_file_than_the_known_one_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/cries.zip"] = b"something else"
    archive = Archive(
        f"{server.address}/cries.zip", f"sha256:{hashlib.sha256(b'cries').hexdigest()}"
    )
    with pytest.raises(DataError, match=rf"{server.address}/cries.zip.*by hand"):
        download([archive], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_replaced_since_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/cries.zip"] = b"cries"
    archive = Archive(f"{server.address}/cries.zip")
    (path,) = download([archive], tmp_path)
    path.unlink()
    server.files["/cries.zip"] = b"other cries"
    with pytest.raises(DataError, match="not what was expected"):
        download([archive], tmp_path)
    assert not path.exists()


def test_what_cannot_be_fetched_says_so(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.zip: cannot be fetched .*404.*by hand"):
        download([Archive(f"{server.address}/gone.zip")], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def zenodo(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Answers as Zenodo does for record 7, whose files are a.zip and notes.txt."""
    held = {"a.zip": b"archive", "notes.txt": b"notes"}
    server.files |= {f"/files/{name}": content for name, content in held.items()}
    record = {
        "id": 7,
        "files": [
            {
                "key": name,
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{server.address}/files/{name}"},
            }
            for name, content in held.items()
        ],
    }
    server.files["/api/7"] = json.dumps(record).encode()
    monkeypatch.setattr(
        pooch.downloaders, "doi_to_url", lambda doi, **_: "https://zenodo.org/records/7"
    )
    monkeypatch.setattr(pooch.downloaders.ZenodoRepository, "base_api_url", f"{server.address}/api")
    return server


def test_wanted_files_of_a_deposit_are_checked_by_its_own_checksums(
    zenodo: Server, tmp_path: Path
) -> None:
    deposit = Deposit("10.5281/zenodo.7", r".*\.zip")
    assert download([deposit], tmp_path) == [tmp_path / "a.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    download([deposit], tmp_path)
    assert zenodo.asked.count("/files/a.zip") == 1
    (tmp_path / "a.zip").unlink()
    zenodo.files["/files/a.zip"] = b"damaged"
    with pytest.raises(DataError, match=r"doi\.org/10\.5281/zenodo\.7: is not what was expected"):
        download([deposit], tmp_path)


def test_a_deposit_without_the_wanted_file_lists_what_it_has(
    zenodo: Server, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"named like .*it has a\.zip, notes\.txt"):
        download([Deposit("10.5281/zenodo.7", r"b\.zip")], tmp_path)


def test_the_command_fetches_and_prepares(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import soundfile

    clip = tmp_path / f"{APP}-1430000000-1.0-m-04-hu.wav"
    soundfile.write(clip, noise(0.5), 16_000)
    made = tmp_path / "made.zip"
    with zipfile.ZipFile(made, "w") as archive:
        archive.write(clip, f"donateacry-corpus-main/cleaned/hungry/{clip.name}")
    server.files["/corpus.zip"] = made.read_bytes()
    builder = type(make_builder("donate_a_cry", tmp_path))
    sources = (Archive(f"{server.address}/corpus.zip"),)
    monkeypatch.setattr(builder, "downloads", property(lambda self: sources))
    data = tmp_path / "data"
    arguments = ("donate_a_cry", "--data-dir", data, "--download")
    assert command(*arguments) == DONE
    assert (data / "manual" / "donate_a_cry" / "corpus.zip").exists()
    assert report_of(data / "donate_a_cry" / "1.0.0")["clips"] == 1
    shutil.rmtree(data / "donate_a_cry")
    server.files.clear()  # it must not be asked again
    assert command(*arguments) == DONE
    shutil.rmtree(data)
    assert command(*arguments) == FAILED


def test_what_is_not_open_to_all_says_where_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("nnime", "--data-dir", tmp_path, "--download") == WRONG_USAGE
    assert "nnime.ee.nthu.edu.tw" in capsys.readouterr().err
    assert command("voc125", "--data-dir", tmp_path, "--download") == WRONG_USAGE


def test_every_source_is_well_formed(tmp_path: Path) -> None:
    found = {name: make_builder(name, tmp_path).downloads for name in dataset_names()}
    by_hand = {name for name, sources in found.items() if not sources}
    assert by_hand == {"audioset_vocalization", "freesound_babies", "nnime", "tut_babies"}
    for sources in found.values():
        for source in sources:
            if isinstance(source, Archive):
                assert source.url.startswith(("https://", "http://www.isophonics.net/"))
                assert source.checksum is None or len(source.checksum) == len("sha256:") + 64
            else:
                assert source.doi.startswith("10.")
