"""What `unimodal data validate|list|fetch|prepare|stats` do, as functions that return plain data.

The command line parses arguments and prints; nothing here prints.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from unimodal.data.cache import cache_folder
from unimodal.data.fasta import read_sequences
from unimodal.data.folders import FileSource, Found, detect, open_path, read_folder, unused
from unimodal.data.manifest import Finding, validate_manifest
from unimodal.data.recipe import RECIPES, build_recipe
from unimodal.data.sources import SOURCES, SPLITS, Source, needed_options, open_source
from unimodal.errors import UnimodalError, sample_errors
from unimodal.media import FileRef
from unimodal.modality import Modality, build_modality, modalities


def validate(
    path: str | Path, *, required: Sequence[str] = (), quick: bool = False
) -> dict[str, Any]:
    """All errors of a manifest, file or folder.

    Args:
        path: What is checked.
        required: Fields that every record of a manifest must have.
        quick: Do not decode files.

    Returns:
        `{"path", "kind", "why", "ok", "findings": [...], "records"}`; a finding has `line`, `id`,
        `rule`, `value`, `remedy`, `file`. `kind` is None for what is no data set, `records` for
        manifests with errors.
    """
    kind: str | None = None
    why, records = "", None
    try:
        found = detect(path)
        kind, why = found.kind, found.why
        findings, records = _check(found, required, quick)
    except (UnimodalError, OSError) as error:
        findings = [_as_finding("It must be a data set", error, str(path))]
    return {
        "path": str(path),
        "kind": kind,
        "why": why,
        "ok": not findings,
        "findings": [asdict(finding) for finding in findings],
        "records": records,
    }


def _check(found: Found, required: Sequence[str], quick: bool) -> tuple[list[Finding], int | None]:
    """Errors of what was found, and how many records it has."""
    if found.kind == "fasta":
        errors, sequences = read_sequences(found.files)
        return list(errors), len(sequences)
    sources: list[Source] = []
    if found.kind in ("manifest", "parquet"):
        if found.kind == "manifest" and (
            findings := validate_manifest(found.path, required=required)
        ):
            return findings, None
        findings = []
        sources = [open_path(found.path, split=split) for split in SPLITS]
    else:
        rows, findings = read_folder(found)
        if not findings or found.kind != "table":  # a bad line is not a missing one
            findings += unused(found, rows)
        sources = [FileSource(rows, name=str(found.path), split="all")]
    if not quick:
        findings += [finding for source in sources for finding in _unreadable(source)]
    return findings, sum(map(len, sources))


def _unreadable(source: Source) -> Iterator[Finding]:
    """A finding for each file of a source that the modality of its field cannot read."""
    rule = "Each value must be readable"
    for index in range(len(source)):
        name, place = f"record {index} of {source.split}", source.name
        try:
            with sample_errors(name):
                record = source[index]
                name = str(record["id"])
                for field, value in record.items():
                    if isinstance(value, FileRef):
                        place = str(value.path)
                        _modality(field).read(value.path)
                    elif isinstance(value, str) and field in modalities.names():
                        _check_string(field, value)
        except (UnimodalError, OSError) as error:
            yield _as_finding(rule, error, place, name)


def _check_string(field: str, value: str) -> None:
    """Refuse a string that its modality cannot encode, where that needs no fitting."""
    modality = _modality(field)
    if modality.value_type is str and not modality.needs_fit:
        modality.encode(value)


@lru_cache
def _modality(field: str) -> Modality[Any, Any]:
    return build_modality(field, {})


def _as_finding(rule: str, error: Exception, place: str, name: str | None = None) -> Finding:
    message = error.message if isinstance(error, UnimodalError) else str(error)
    remedy = getattr(error, "remedy", None) or "Correct or remove it."
    return Finding(None, name, rule, message, remedy, place)


def list_data() -> list[dict[str, Any]]:
    """Embedded sets and recipes: name, about, licence, splits, whether they are ready."""
    rows: list[dict[str, Any]] = []
    for name in SOURCES.names():
        entry = SOURCES.get(name)
        about = (entry.__doc__ or "").strip().split("\n")[0]
        needed = needed_options(entry)
        license = f"depends on {', '.join(needed)}" if needed else entry(split="train").license
        rows.append(
            {"name": name, "about": about, "license": license, "splits": SPLITS, "ready": True}
        )
    for name in RECIPES.names():
        recipe = RECIPES.get(name)
        rows.append(
            {
                "name": name,
                "about": recipe.about,
                "license": recipe.license,
                "splits": recipe.splits,
                "ready": recipe().is_prepared,
            }
        )
    return rows


def fetch(
    name: str, from_files: Sequence[str | Path] = (), *, accept_other: bool = False
) -> dict[str, Any]:
    """Fetch a recipe's packages into the cache, or copy them there; hashes are checked."""
    recipe = RECIPES.get(name)()
    archives = recipe.fetch([Path(file) for file in from_files], accept_other=accept_other)
    files = {package: str(path) for package, path in archives.items()}
    return {"name": name, "license": recipe.license, "cache": str(cache_folder()), "files": files}


def prepare(
    name: str,
    from_files: Sequence[str | Path] = (),
    *,
    accept_other: bool = False,
    force: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> dict[str, Any]:
    """Fetch and prepare a recipe; its folder, licence and counts.

    `should_stop` is asked in every long loop; a stop leaves nothing half written.
    """
    recipe = build_recipe(name, **options)
    recipe.should_stop = should_stop
    files = [Path(file) for file in from_files]
    folder = recipe.prepare(files, accept_other=accept_other, force=force)
    return {
        "name": name,
        "license": recipe.license,
        "folder": str(folder),
        "counts": recipe.counts(),
    }


def stats(name: str, *, sample: int = 200, **options: Any) -> dict[str, Any]:
    """Records a split, keys, licence, and the commonest texts of a sample of a data set."""
    splits = RECIPES.get(name).splits if name in RECIPES.names() else SPLITS
    result: dict[str, Any] = {"name": name, "splits": {}}
    for split in splits:
        try:
            source = open_source(name, split, **options)
        except UnimodalError as error:
            if split == splits[0]:
                raise
            result["splits"][split] = {"records": 0, "note": str(error)}
            continue
        step = max(1, len(source) // max(1, sample))
        records = [source[index] for index in range(0, len(source), step)]
        texts = Counter(r["text"] for r in records if isinstance(r.get("text"), str))
        result["splits"][split] = {
            "records": len(source),
            "keys": sorted({key for record in records for key in record}),
            "sampled": len(records),
            "commonest texts": texts.most_common(5),
        }
        result["license"] = source.license
    return result
