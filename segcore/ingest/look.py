"""Look: what has to be done for each source, found without reading it where its stamp tells.

entries --> folders of several images taken apart --> stamp against what the image was made from
unchanged            -> skipped
size same, time new  -> its digest decides (in a child); the same content is not read again
changed, new         -> to be probed and written
"""

import contextlib
import fnmatch
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from segcore.config import IngestConfig
from segcore.errors import SegcoreError, SourceError
from segcore.ingest.entries import Entry, check_found, image_id_of, is_pattern
from segcore.ingest.job import Job
from segcore.ingest.listing import is_prefix
from segcore.sources import Joined, uri_of
from segcore.sources.files import MEMBER, is_remote, split_member
from segcore.sources.stamps import canonical_uri, is_local_folder, stamp
from segcore.store import Workspace, seal, unseal
from segcore.targets import parts_of

LOOK_THREADS = 8

TARGET_OPTIONS = ("classes", "target_options")
"""What counts only for sources that have a target."""


def requests(entry: Entry, options: dict[str, Any]) -> dict[str, Any]:
    """All that was asked for of a source, as it is now; the same again is nothing to do.

    Args:
        entry: the source.
        options: what the config says, the same for all sources.

    Raises:
        SourceError: if a file is not there.
    """
    check_found(entry)
    return {
        "source": stamp(entry.opened_by),
        "targets": _target_stamps(entry),
        "valid": stamp(entry.valid) if entry.valid else None,
        "split": entry.split,
        "group": entry.group,
        "metadata": dict(entry.metadata),
        **({"target_values": entry.target_values} if entry.target_values and entry.targets else {}),
        **({"aoi": [stamp(entry.aoi), *_stamps_beside([entry.aoi])]} if entry.aoi else {}),
        **{key: value for key, value in options.items() if key not in TARGET_OPTIONS or entry.targets},
    }


def _target_stamps(entry: Entry) -> list[dict[str, Any]]:
    """Stamps of target files, with the class of each where every file is one, and of those beside a shapefile."""
    stamps = [stamp(uri) for uri in entry.targets]
    if entry.class_names:
        stamps = [found | {"class": name} for found, name in zip(stamps, entry.class_names, strict=True)]
    return stamps + _stamps_beside(entry.targets)


def _stamps_beside(uris: Sequence[str]) -> list[dict[str, Any]]:
    """Stamps of the files that lie beside a shapefile."""
    stamps = []
    for part in (part for uri in uris for part in parts_of(uri)[1:]):
        with contextlib.suppress(SourceError):  # what is missing is named when the shapefile is opened
            stamps.append(stamp(part))
    return stamps


def look(job: Job, workspace: Workspace | None, config: IngestConfig, options: dict[str, Any]) -> None:
    """Find what is to be done; a source that is gone has failed, one that is unchanged or not at rest is skipped.

    Raises:
        SegcoreError: if a file is not there, or the image is another source's.
    """
    job.request = requests(job.entry, options)
    job.stamp = job.request["source"]
    changed_ns = job.request["source"].get("mtime_ns")
    if config.quiet_minutes and changed_ns is not None:
        age_s = time.time() - changed_ns / 1e9
        # Clocks differ by minutes; a time that lies further ahead was set, and says nothing of who is writing.
        if abs(age_s) < config.quiet_minutes * 60:
            when = f"{age_s:.0f} s ago" if age_s >= 0 else f"{-age_s:.0f} s from now, by this clock"
            job.skip(reason=f"changed {when}, may still be written: waits for the next run")
            return
    image = None if workspace is None else workspace.complete_image(job.entry.image_id)
    if workspace is None or image is None:
        return
    check_owner(job.entry, image.source)
    made_from = image.attributes.get("request", {})
    before, now = made_from.get("source", {}), job.stamp
    if before == now or _seen(workspace, job, image.digest) == now:
        job.request["source"] = before
        job.digest = image.digest
    elif before.get("size") == now.get("size") and image.digest is not None:
        job.touched = made_from
        job.digest = image.digest
    job.unchanged = made_from == job.request
    if job.unchanged and not config.overwrite:
        job.skip(reason="unchanged")


def settle(job: Job, workspace: Workspace, digest: str) -> bool:
    """Decide about a source whose stamp is new and whose size is not; True if there is nothing to do after all.

    Args:
        job: with the request that its image was made by, in `touched`.
        workspace: remembers the new stamp, so that the next run need not read the file again.
        digest: of the file as it is now.
    """
    assert job.touched is not None
    if digest != job.digest:
        job.digest = digest
        return False
    seen = seal({"stamp": job.stamp, "digest": digest})
    workspace.objects.put(f"{job.key}/seen.json", json.dumps(seen).encode())
    job.request["source"] = job.touched["source"]
    if job.touched.get("kept") == "link":  # the link has to know the new stamp
        return False
    job.unchanged = job.touched == job.request
    return job.unchanged


def _seen(workspace: Workspace, job: Job, digest: str | None) -> Any:
    """A later stamp of the file under which it was found to be what the image was made from."""
    try:
        seen = unseal(workspace.objects.get(f"{job.key}/seen.json") or b"{}")
        return seen.get("stamp") if seen.get("digest") == digest else None
    except ValueError:  # damaged: the digest is taken once more
        return None


def check_owner(entry: Entry, owner: str) -> None:
    """Refuse a source whose image id another one has.

    Raises:
        SourceError: naming both.
    """
    if owner != canonical_uri(entry.source):
        raise SourceError(f"{entry.source}: its image id {entry.image_id} is that of {owner}; rename the file")


def is_folder(entry: Entry) -> bool:
    """True for a source that may hold several images, or is one of several: a local folder, a URL that ends as one."""
    if entry.joined is not None:
        return False
    place = split_member(entry.source)[0]
    return place.endswith("/") if is_remote(place) else is_local_folder(place)


def taken_apart(entry: Entry, parts: Sequence[str | Joined], ids: str) -> list[Entry]:
    """One entry per image of a folder; the entry itself where it is one image."""
    if list(parts) == [entry.source]:
        return [entry]
    return [_part_of(entry, part, ids) for part in parts]


def _part_of(entry: Entry, part: str | Joined, ids: str) -> Entry:
    """A folder's entry, for one of its images."""
    uri, joined = uri_of(part), part if isinstance(part, Joined) else None
    return entry.model_copy(update={"source": uri, "joined": joined, "image_id": image_id_of(uri, ids)})


def vanished(workspace: Workspace, config: IngestConfig, present: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Images whose source lay in a folder or pattern that was given, and is there no more.

    Args:
        workspace: where the images are.
        config: names the folders and patterns.
        present: the sources that were found, by image id.

    Yields:
        Source and image id.
    """
    roots = [given for given in config.sources if is_pattern(given) or is_prefix(given) or is_local_folder(given)]
    # A server that lists nothing, or asks for credentials, has not lost everything.
    roots = [root for root in roots if not is_remote(root) or any(_lies_in(uri, root) for uri in present.values())]
    if not roots:
        return
    others = sorted(set(workspace.begun_ids()) - present.keys())
    with ThreadPoolExecutor(LOOK_THREADS) as threads:
        for image_id, source in zip(
            others, threads.map(lambda found: _source_of(workspace, found), others), strict=True
        ):
            if source and any(_lies_in(source, root) for root in roots) and not _is_there(source):
                yield source, image_id


def _source_of(workspace: Workspace, image_id: str) -> str:
    try:
        image = workspace.complete_image(image_id)
    except SegcoreError:  # damaged: others say so
        return ""
    return "" if image is None else image.source


def _lies_in(source: str, root: str) -> bool:
    place = canonical_uri(root).rstrip("/")
    if not is_pattern(root):
        return source.startswith(f"{place}/")
    deep = "**" in root  # else a star stays within a folder
    return fnmatch.fnmatch(source, place) and (deep or source.count("/") == place.count("/"))


def _is_there(source: str) -> bool:
    """Of a URL nobody knows more than the listing, which does not have it."""
    return not is_remote(source) and Path(source.partition(MEMBER)[0]).exists()
