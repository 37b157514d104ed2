"""Fetches model files from the Hugging Face Hub, or takes them from its cache where there is no connection.

Knows names of files on the Hub; knows nothing of what is in them. huggingface_hub is imported when it is needed.
"""

from __future__ import annotations

import re
from pathlib import Path

from napari_xt.errors import ModelNotFoundError

FORM = "hf:owner/name/file or hf:owner/name@revision/file"


def fetch(name: str) -> Path:
    """Return where a file of the Hub lies on this machine, after fetching it if it is not in the cache.

    Parameters
    ----------
    name
        ``hf:owner/name/file``, the file in as many folders as it likes; ``owner/name@revision`` names a branch, a tag
        or a commit. ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` count as always.

    Raises
    ------
    ModelNotFoundError
        The name has another form; the repository, the revision or the file does not exist; access is missing; or there
        is no connection and the file is not in the cache.
    """
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)", name)
    if match is None or {"", ".", ".."} & set(match[3].split("/")) or "\\" in name:
        raise ModelNotFoundError(name, "is no name of a file on the Hugging Face Hub", f"write {FORM}")
    repository, revision, file = match.groups()
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # each version of huggingface_hub brings those of another network library
        for kind, (why, do) in _reasons().items():
            if isinstance(error, kind):
                told = {"repository": repository, "revision": revision, "file": file}
                raise ModelNotFoundError(name, why.format(**told), do) from error
        raise ModelNotFoundError(name, f"could not be fetched: {error}", "try again later") from error


def _reasons() -> dict[type[Exception], tuple[str, str]]:
    """What went wrong and what to do, by huggingface_hub's errors; the first that fits counts."""
    from huggingface_hub import constants, errors

    missing = "is not in the cache, and the Hub can't be reached", "fetch it once with a connection"
    if constants.HF_HUB_OFFLINE:
        missing = "is not in the cache, and HF_HUB_OFFLINE is set", "fetch it once without it"
    return {
        errors.GatedRepoError: ("{repository} is gated: it needs access and HF_TOKEN", "ask for access on its page"),
        errors.RepositoryNotFoundError: (
            "there is no {repository}, or it is private",
            "check the name or set HF_TOKEN",
        ),
        errors.RevisionNotFoundError: ("{repository} has no revision {revision}", "check it"),
        errors.LocalEntryNotFoundError: missing,
        errors.EntryNotFoundError: ("{repository} has no file {file}", "check the name"),
    }
