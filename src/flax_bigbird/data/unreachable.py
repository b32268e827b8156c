"""Explains why a file, a bucket or a dataset cannot be read or written, and what to do about it."""

import contextlib
import errno
from collections.abc import Iterator
from urllib.parse import urlsplit

from flax_bigbird._messages import first_line
from flax_bigbird.data.errors import DataError, OptionError

PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "requests aiohttp",
    "https": "requests aiohttp",
    "hf": "huggingface_hub",
}
"""The packages that open URLs by fsspec."""

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or aws configure",
    "gs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "gcloud auth application-default login, or GOOGLE_APPLICATION_CREDENTIALS",
    "az": "az login, or AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "az login, or AZURE_STORAGE_ACCOUNT_KEY",
    "abfss": "az login, or AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "hf auth login, or HF_TOKEN",
}

_IS_OFFLINE = ("offline mode", "hf_hub_offline", "offlinemode")
_NO_NETWORK = (
    "resolve host",
    "name or service not known",
    "name resolution",
    "timed out",
    "timeout",
    "network",
    "connection",
    "connecterror",
    "unreachable",
)
_NO_ACCESS = (
    "401",
    "403",
    "access denied",
    "access_denied",
    "access token",
    "anonymous",
    "authenticat",
    "credential",
    "forbidden",
    "gated",
    "permission",
    "unauthorized",
)
_NOT_THERE = (
    "404",
    "cannot find",
    "couldn't find",
    "does not exist",
    "doesn't exist",
    "filenotfound",
    "no such",
    "nosuchbucket",
    "not found",
    "unable to find",
)


def unreachable(
    place: str,
    error: BaseException,
    rule: str = "data files must be readable",
    error_class: type[Exception] = DataError,
) -> Exception:
    """Returns the error to raise if a place cannot be read or written.

    Args:
      place: The path, the URL or the name of a dataset, as the user has given it.
      error: What the operating system or a library has raised.
      rule: The rule that is broken.
      error_class: The class of the error, `DataError` or `OptionError`.
    """
    cause = error.__cause__ or error
    line = first_line(cause)
    name = type(cause).__name__
    reason = line if line == name else f"{name}: {line}"
    return error_class(f"{rule}; {place} is not ({reason}): {_remedy(place, error)}")


@contextlib.contextmanager
def explain_unreachable(
    place: str,
    rule: str = "data files must be readable",
    error_class: type[Exception] = DataError,
) -> Iterator[None]:
    """Raises the error of `unreachable` in the place of what libraries raise inside.

    The arguments are those of `unreachable`.
    """
    try:
        yield
    except (DataError, OptionError):
        raise
    except Exception as error:  # each file system raises exceptions of its own
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise unreachable(place, error, rule, error_class) from error


def _remedy(place: str, error: BaseException) -> str:
    scheme = urlsplit(place).scheme if "://" in place else ""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(f"{type(cause).__name__} {cause}" for cause in causes).lower()
    if any(isinstance(cause, ImportError) for cause in causes):
        if scheme in PACKAGES:
            return f"pip install {PACKAGES[scheme]}"
        return "install the package that the reason names"
    if "protocol not known" in text or "unrecognized filesystem" in text:
        return (
            "write a URL that starts with one of s3://, gs://, hf://, https://, az://, hdfs://, or "
            "install its package of fsspec"
        )
    remedies = []
    if any(sign in text for sign in _IS_OFFLINE):
        remedies.append("unset HF_HUB_OFFLINE")
    elif any(sign in text for sign in _NO_NETWORK):
        remedies.append("check the network and the name of the host or bucket")
    if any(sign in text for sign in _NO_ACCESS):
        how = _CREDENTIALS.get(scheme)
        remedies.append(f"check the credentials ({how})" if how else "check the permissions")
    if any(sign in text for sign in _NOT_THERE):
        remedies.append("check the spelling")
    return ", and ".join(remedies) or "check the spelling, the format and the permissions"
