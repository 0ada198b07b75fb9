"""What a report says of a gated and a folded model."""

from dataclasses import replace

import fxprune
from fxprune.testing import assert_unchanged
from fxprune.testing.torch.checkers import count_macs
from tests.torch.gated import folded_at_half, params
from tests.torch.models import Residual, images


def test_report_prints_groups_pins_and_costs():
    gated, folded = folded_at_half()
    report = fxprune.report(gated)
    text = str(report)
    for word in ("Residual", "stem.0", "body+", "branch", "network output", "macs", "latency"):
        assert word in text
    assert f"{params(folded):,}" in text
    assert f"{params(Residual()):,}" in text
    numbers = report.as_dict()
    assert numbers["params_before"] == params(Residual())
    assert numbers["params_after"] == params(folded)
    assert numbers["macs_after"] == count_macs(folded.eval(), [images(1).double()])
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert numbers["latency_ms_before"] > 0
    assert numbers["latency_ms_after"] > 0


def test_report_of_gated_and_folded_agree():
    gated, folded = folded_at_half()
    with assert_unchanged(gated), assert_unchanged(folded):
        before, after = (fxprune.report(each, latency=False) for each in (gated, folded))
    assert before.file_bytes["after"] == after.file_bytes["after"]
    assert replace(before, file_bytes={}, schedule={}) == replace(after, file_bytes={})
    assert after.origin == {"method": "static"}
    assert not before.latency_ms
    rows = {row.name: (row.size, row.kept) for row in after.rows}
    assert rows["stem.0"] == (8, int(fxprune.keep_set(gated)["stem.0"].sum()))
