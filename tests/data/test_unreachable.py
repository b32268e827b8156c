"""What users are told if a file, a bucket or a dataset cannot be read: rule, place, and remedy."""

import errno
import sys

import pytest

from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.remote_files import RemotePath, expand_sources, local_copy
from flax_bigbird.data.streaming import stream_dataset, stream_files
from flax_bigbird.data.unreachable import explain_unreachable, unreachable


@pytest.mark.parametrize(
    ("place", "error", "remedy"),
    [
        ("s3://b/a", ModuleNotFoundError("No module named 's3fs'"), "pip install s3fs"),
        ("gs://b/a", ImportError("Please install gcsfs"), "pip install gcsfs"),
        ("hdfs://h/a", ImportError("no libhdfs"), "install the package that the reason names"),
        ("nowhere://b/a", ValueError("Protocol not known: nowhere"), "write a URL that starts"),
        ("s3://b/a", OSError("AWS Error ACCESS_DENIED during HeadObject"), "AWS_ACCESS_KEY_ID"),
        ("hf://datasets/o/d", OSError("401 Client Error: gated repo"), "hf auth login"),
        ("s3://b/a", OSError("curlCode: 6, Could not resolve host"), "check the network"),
        ("https://h/a", TimeoutError("timed out"), "check the network"),
        ("https://h/a", FileNotFoundError("https://h/a"), "check the spelling"),
        ("a.jsonl", PermissionError(errno.EACCES, "Permission denied"), "check the permissions"),
        ("owner/data", ConnectionError("Offline mode is enabled"), "unset HF_HUB_OFFLINE"),
        ("a.parquet", ValueError("magic bytes"), "check the spelling, the format"),
    ],
)
def test_reasons_have_remedies(place, error, remedy):
    message = str(unreachable(place, error))
    assert message.startswith(f"data files must be readable; {place} is not (")
    assert str(error) in message
    assert remedy in message.partition("): ")[2]


def test_a_token_that_the_network_does_not_bring_has_both_remedies():
    error = OSError("Could not create a OAuth2 access token: Could not resolve hostname")
    message = str(unreachable("gs://b/a", error))
    assert message.endswith(
        "check the network and the name of the host or bucket, and check the credentials (gcloud "
        "auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS)"
    )


def test_own_errors_and_full_disks_stay_as_they_are():
    for error in (OptionError("a"), DataError("b"), OSError(errno.ENOSPC, "No space left")):
        with pytest.raises(type(error)) as raised, explain_unreachable("a"):
            raise error
        assert raised.value is error


READERS = {
    "expand_sources": lambda url: expand_sources([url]),
    "local_copy": lambda url: local_copy(url).__enter__(),
    "stream_files": lambda url: stream_files([url], "text", 0),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("https://a.invalid/a.jsonl", "pip install requests aiohttp"),
        ("nowhere://b/a.jsonl", "write a URL that starts with one of s3://"),
    ],
)
def test_every_reader_has_the_remedy(read, url, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(DataError) as error:
        read(url)
    assert url in str(error.value)
    assert remedy in str(error.value)


def test_file_systems_that_do_not_answer(monkeypatch):
    from pyarrow import fs

    class Unreachable:
        def get_file_info(self, path):
            raise OSError(f"AWS Error ACCESS_DENIED for {path}")

    from_uri = lambda url: (Unreachable(), "bucket/a")  # noqa: E731
    monkeypatch.setattr(fs, "FileSystem", type("FileSystem", (), {"from_uri": from_uri}))
    with pytest.raises(DataError, match=r"s3://bucket/a is not .*ACCESS_DENIED.*AWS_ACCESS_KEY"):
        expand_sources(["s3://bucket/a"])

    def fail(url):
        assert url.endswith("?retry_limit_seconds=30")
        raise OSError("Could not resolve host")

    monkeypatch.setattr(fs.FileSystem, "from_uri", fail)
    with pytest.raises(DataError, match=r"gs://bucket/a is not .*: check the network"):
        RemotePath.of("gs://bucket/a")


def test_datasets_that_are_not_there():
    with pytest.raises(DataError, match=r"no/such is not \(.*\): .*check|HF_HUB_OFFLINE"):
        stream_dataset("no/such", None, "train", "text", 0)
