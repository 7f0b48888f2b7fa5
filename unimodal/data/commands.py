"""What `unimodal data validate|list|fetch|prepare|stats` do, as functions that return plain data.

The command line parses arguments and prints; nothing here prints.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unimodal.data.cache import cache_folder, check_prepared
from unimodal.data.folders import detect, read_folder
from unimodal.data.manifest import Finding, validate_manifest
from unimodal.data.recipe import RECIPES
from unimodal.data.sources import SOURCES, SPLITS, open_source
from unimodal.errors import MediaError, UnimodalError


def validate(path: str | Path, *, required: Sequence[str] = ()) -> dict[str, Any]:
    """All errors of a manifest, file or folder.

    Returns:
        `{"path", "kind", "why", "ok", "findings": [...], "records"}`; a finding has `line`, `id`,
        `rule`, `value`, `remedy`, `file`. `records` is None for manifests with errors.
    """
    found = detect(path)
    findings: list[Finding] = []
    records: int | None = None
    if found.kind == "manifest":
        findings = validate_manifest(found.path, required=required)
    elif found.kind == "fasta":
        findings, records = _check_fasta(found.files)
    elif found.kind == "parquet":
        records = sum(len(open_source(str(path), split)) for split in SPLITS)
    else:
        rows, findings = read_folder(found)
        records = len(rows)
    if found.kind == "manifest" and not findings:
        records = sum(len(open_source(str(found.path), split)) for split in SPLITS)
    return {
        "path": str(path),
        "kind": found.kind,
        "why": found.why,
        "ok": not findings,
        "findings": [asdict(finding) for finding in findings],
        "records": records,
    }


def list_data() -> list[dict[str, Any]]:
    """Embedded sets and recipes: name, about, licence, splits, whether they are ready."""
    rows: list[dict[str, Any]] = []
    for name in SOURCES.names():
        entry = SOURCES.get(name)
        about = (entry.__doc__ or "").strip().split("\n")[0]
        license = entry(split="train").license
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
    recipe = RECIPES.get(name)(**options)
    recipe.should_stop = should_stop
    files = [Path(file) for file in from_files]
    folder = recipe.prepare(files, accept_other=accept_other, force=force)
    return {
        "name": name,
        "license": recipe.license,
        "folder": str(folder),
        "counts": recipe.counts(),
        "problems": check_prepared(folder, hashes=True),
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


def _check_fasta(files: Sequence[Path]) -> tuple[list[Finding], int]:
    from unimodal.media import read_fasta

    findings = []
    records = 0
    for file in files:
        try:
            records += sum(1 for _ in read_fasta(file))
        except MediaError as error:
            rule = "Each FASTA record must be sound"
            remedy = error.remedy or "Correct the record."
            findings.append(Finding(None, error.subject, rule, error.message, remedy, str(file)))
    return findings, records
