"""What records say of the machine."""

import json
import platform
from types import SimpleNamespace

import pytest

from benchmarks import run
from jaxseg import runtime

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16

processor\t: 1
model name\t: another
"""


@pytest.mark.parametrize(
    "text, name",
    [
        (
            XEON,
            "Intel(R) Xeon(R) Processor (family 6, model 143; avx2, avx512f, avx512_bf16, amx_bf16)",
        ),
        ("model name : Old\n", "Old"),
        ("processor : 0\nBogoMIPS : 50.00\nCPU part : 0xd0c\n\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_cpu_is_named(tmp_path, text, name):
    info = tmp_path / "cpuinfo"
    if text is not None:
        info.write_text(text)
    assert runtime.cpu_name(info) == (name or platform.processor() or platform.machine())


def test_every_record_names_it():
    found = runtime.provenance()
    assert found["cpu"] == runtime.cpu_name() != ""
    json.dumps(found)


def test_rows_that_are_kept_keep_their_cpu(tmp_path):
    """One record may hold rows of several CPUs, and of a time when none was named."""
    path, now = tmp_path / "x.json", runtime.provenance()
    old = {**now, "commit": "a", "cpu": "old", "rows": [{"arm": "x"}, {"arm": "y", "cpu": "older"}]}
    experiment = SimpleNamespace(CLAIM="", SEEDS=(0,))
    for record, cpus in ((old, ["old", "older"]), ({**old, "cpu": None}, [None, "older"])):
        path.write_text(json.dumps(record))
        kept = run._open(path, experiment, "x", keep=True)
        assert kept["cpu"] == now["cpu"] and [row["cpu"] for row in kept["rows"]] == cpus
        assert [row["commit"] for row in kept["rows"]] == ["a", "a"]
