"""Two genomes: Escherichia coli 536 (4.9 million bases) and bacteriophage lambda (48,502).

The last tenth is `test`, the fiftieth before it `validation`, contiguous; the rest is `train`.
Records are windows (see `unimodal.data.genome`).
"""

import gzip
from pathlib import Path
from typing import ClassVar

import numpy as np

from unimodal.data.cache import MappedArray, write_arrays
from unimodal.data.genome import GenomeWindows
from unimodal.data.packages import Package
from unimodal.data.recipe import RECIPES, Recipe
from unimodal.data.sources import Source
from unimodal.errors import DataError


class Genome(Recipe):
    """One genome out of a package; records: `{"id", "dna", "start", "sequence"}`.

    Args:
        cache: See `Recipe`.
        test_fraction, validation_fraction: See `GenomeWindows`.
    """

    member_name: ClassVar[str]
    accession: ClassVar[str]
    num_bases: ClassVar[int]

    def __init__(
        self,
        *,
        cache: Path | None = None,
        test_fraction: float = 0.1,
        validation_fraction: float = 0.02,
    ):
        super().__init__(cache=cache)
        self._shares = test_fraction, validation_fraction

    def build(self, archives: dict[str, Path], folder: Path) -> dict[str, int]:
        from unimodal.media import read_fasta

        archive = archives[self.packages[0].name]
        records = list(read_fasta(gzip.decompress(self.member(archive, self.member_name))))
        if len(records) != 1 or self.accession not in records[0].description:
            raise DataError(
                f"The file must hold one record, {self.accession}, but holds "
                f"{[record.id for record in records][:3]}.",
                subject=self.member_name,
                remedy="It is of another version, or damaged: fetch the listed one.",
            )
        bases = np.frombuffer(records[0].bases.upper().encode("ascii"), np.uint8)
        write_arrays(folder / "genome.safetensors", {"bases": bases})
        return {"bases": len(bases)}

    def expected_counts(self) -> dict[str, int]:
        return {"bases": self.num_bases}

    def open(self, split: str) -> Source:
        bases = MappedArray(self.folder / "genome.safetensors", "bases")
        test, validation = self._shares
        return GenomeWindows(
            {self.accession: bases},
            split,
            test_fraction=test,
            validation_fraction=validation,
            name=self.name,
            license=self.license,
        )


@RECIPES.register("e_coli")
class EscherichiaColi(Genome):
    """Escherichia coli 536, NC_008253."""

    name = "e_coli"
    about = "genome of Escherichia coli 536, 4,938,920 bases"
    license = "public domain (sequence data); package Artistic-2.0"
    packages = (
        Package(
            client="apt",
            name="bowtie-examples",
            version="1.3.1-1",
            sha256="3cec5c9f6460ea2236cf3d2688665328ab18d90eb2f8eaa0183dd1cd05c212ee",
        ),
    )
    member_name = "usr/share/doc/bowtie/examples/genomes/NC_008253.fna.gz"
    accession = "NC_008253"
    num_bases = 4_938_920


@RECIPES.register("lambda_phage")
class LambdaPhage(Genome):
    """Enterobacteria phage lambda, NC_001416."""

    name = "lambda_phage"
    about = "genome of bacteriophage lambda, 48,502 bases"
    license = "public domain (sequence data); package Artistic-2.0"
    packages = (
        Package(
            client="apt",
            name="bowtie2-examples",
            version="2.5.0-3",
            sha256="9f9f580954187e501102b13484bdecdc2725155e0b8020e7a056a48a06642118",
        ),
    )
    member_name = "usr/share/doc/bowtie2/examples/reference/lambda_virus.fa.gz"
    accession = "NC_001416"
    num_bases = 48_502
