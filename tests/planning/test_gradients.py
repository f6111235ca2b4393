"""How gradients leave, read from program text by hand."""

import pytest

from alignjax.planning import gradients, hlo, report

BACK = 'metadata={op_name="jit(update)/transpose(jvp())/dot_general"}'
SUM = f"to_apply=%add, replica_groups=[1,4]<=[4], {BACK}"
SLICER = """%slicer (p: f32[64,8]) -> f32[16,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %i = s32[] constant(0)
  %b = f32[64,8]{1,0} bitcast(%p)
  ROOT %s = f32[16,8]{1,0} dynamic-slice(%b, %i, %i), dynamic_slice_sizes={16,8}
}

"""
SCATTER = """%all-reduce-scatter.1 (p: f32[64,8]) -> f32[16,8] {
  %p = f32[64,8]{1,0} parameter(0)
  %r = f32[64,8]{1,0} all-reduce(%p), to_apply=%add, replica_groups=[1,4]<=[4]
  %i = s32[] constant(0)
  ROOT %s = f32[16,8]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={16,8}
}

"""
WIRE = 2 * 3 / 4 * 64 * 8 * 4  # bytes that a device sends to sum an f32[64,8] over 4


def leaving(body, before=""):
    text = f"{before}ENTRY %main (x: f32[64,8]) -> f32[] {{\n  %x = f32[64,8]{{1,0}} parameter(0)\n"
    return gradients.leaving(hlo.parse(f"{text}{body}}}\n"), {"data": 4})


def test_a_scatter_of_the_sum_is_told_though_it_is_written_as_a_sum():
    found = leaving(f"  %f = f32[16,8] fusion(%x), calls=%all-reduce-scatter.1, {BACK}\n", SCATTER)
    assert found == (WIRE / 2, 0, 0)


def test_a_sum_that_is_sliced_alone():
    one = f"  %r = f32[64,8]{{1,0}} all-reduce(%x), {SUM}\n"
    use = "  %f = f32[16,8]{1,0} fusion(%r), kind=kLoop, calls=%slicer\n"
    assert leaving(one + use, SLICER) == (0, WIRE, 0)
    whole = "  %n = f32[64,8]{1,0} negate(%r)\n"
    assert leaving(one + use + whole, SLICER) == (0, 0, WIRE)
    assert leaving(one) == (0, 0, WIRE)  # nobody slices it


def test_each_result_of_a_joined_sum_has_its_own_readers():
    body = (
        f"  %r = (f32[64,8]{{1,0}}, f32[64,8]{{1,0}}) all-reduce(%x, %x), {SUM}\n"
        "  %a = f32[64,8]{1,0} get-tuple-element(%r), index=0\n"
        "  %b = f32[64,8]{1,0} get-tuple-element(%r), index=1\n"
        "  %f = f32[16,8]{1,0} fusion(%a), kind=kLoop, calls=%slicer\n"
        "  %n = f32[64,8]{1,0} negate(%b)\n"
    )
    assert leaving(body, SLICER) == pytest.approx((0, WIRE, WIRE))


def test_sums_of_activations_and_of_the_forward_pass_do_not_count():
    forward = SUM.replace("transpose(jvp())", "jvp()")
    assert leaving(f"  %r = f32[64,8]{{1,0}} all-reduce(%x), {forward}\n") == (0, 0, 0)
    text = f"ENTRY %main (x: f32[8]) -> f32[] {{\n  %x = f32[8]{{0}} parameter(0)\n  %r = f32[8]{{0}} all-reduce(%x), {SUM}\n}}\n"  # noqa: E501
    assert gradients.leaving(hlo.parse(text), {"data": 1, "model": 4}) == (0, 0, 0)


def test_the_line_of_the_report():
    line = report.gradients_line(gradients.Leaving(2.0**30, 2.0**20, 0.0))
    assert line.startswith("gradients leave: 1.00 GiB by reduce-scatter; 1.00 MiB by all-reduce of")
