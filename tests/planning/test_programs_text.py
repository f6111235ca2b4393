"""Program text by hand: loops, products, collectives and their time."""

import numpy as np
import pytest

from alignjax.planning import collectives, flops, hlo, memory, schedule, topology

LOOP = """HloModule m, is_scheduled=true

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %limit = s32[] constant(7)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%fused (a: f32[8,4], b: f32[4,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[4,4]{1,0} parameter(1)
  ROOT %dot = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (q: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%q), index=1
  %w = f32[4,4]{1,0} constant({...})
  %y = f32[8,4]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused, backend_config={"window_config":{"estimated_cycles":"1500"}}
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%j, %y)
}

ENTRY %main (x0: f32[8,4]) -> (s32[], f32[8,4]) {
  %x0 = f32[8,4]{1,0} parameter(0)
  %first = s32[] constant(2)
  %start = (s32[], f32[8,4]{1,0}) tuple(%first, %x0)
  ROOT %while = (s32[], f32[8,4]{1,0}) while(%start), condition=%cond, body=%bodyKNOWN
}
"""  # noqa: E501


def program(known=""):
    return hlo.parse(LOOP.replace("KNOWN", known))


def test_a_loop_counts_as_often_as_it_runs():
    assert flops.matmul_flops(program()) == (7 - 2) * 2 * 8 * 4 * 4
    told = ', backend_config={"known_trip_count":{"n":"9"}}'
    assert flops.matmul_flops(program(told)) == 9 * 2 * 8 * 4 * 4


def test_a_loop_that_the_data_ends_takes_the_rounds_given():
    text = LOOP.replace("KNOWN", "").replace("direction=LT", "direction=NE")
    assert flops.matmul_flops(hlo.parse(text), 3.0) == 3 * 2 * 8 * 4 * 4


def test_a_loop_that_data_or_a_limit_ends_runs_as_often_as_the_limit():
    both = """  %lt = pred[] compare(%i, %limit), direction=LT
  %data = s32[] get-tuple-element(%p), index=0
  %more = pred[] compare(%i, %data), direction=LT
  ROOT %and = pred[] and(%more, %lt)"""
    one = "  ROOT %lt = pred[] compare(%i, %limit), direction=LT"
    text = LOOP.replace("KNOWN", "").replace(one, both)
    assert flops.matmul_flops(hlo.parse(text), 3.0) == 7 * 2 * 8 * 4 * 4


def test_cycles_of_a_loop_are_replayed():
    machine = topology.Machine("v5e:2x2", 1, topology.CHIPS["v5e"], "tpu", [])
    found = schedule.replay(program(), machine, {"data": 4})
    assert found.matmul == pytest.approx(5 * 1500 / 1.5e9)
    assert found.total == found.matmul
    assert found.cycles


def convolution(line, left, right):
    text = f"""HloModule m

ENTRY %main (a: f32[1], b: f32[1]) -> f32[1] {{
  %a = {left}{{0}} parameter(0)
  %b = {right}{{0}} parameter(1)
  ROOT %c = {line}
}}
"""
    return flops.matmul_flops(hlo.parse(text))


def test_products_written_as_convolutions():
    plain = convolution(
        "bf16[4,512,1024]{0} convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf",
        "bf16[4,512,256]", "bf16[256,1024,1]",
    )  # fmt: skip
    assert plain == 2 * 4 * 512 * 1024 * 256
    # A TPU's batched product: a dilated window whose other taps read holes and padding.
    batched = convolution(
        "f32[4,8,512,512]{0} convolution(%a, %b), window={size=4x8 stride=3x7 lhs_dilate=4x8}, "
        "dim_labels=0b1f_0o1i->01bf",
        "bf16[4,512,8,64]", "bf16[4,512,8,64]",
    )  # fmt: skip
    assert batched == 2 * 4 * 8 * 512 * 512 * 64


@pytest.mark.parametrize(
    ("groups", "over", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", "model", 2),
        ("{{0,2,4,6},{1,3,5,7}}", "data", 4),
        ("[4,2]<=[8]", "model", 2),
        ("[2,4]<=[4,2]T(1,0)", "data", 4),
        ("[1,8]<=[8]", "data+model", 8),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", "model", 2),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", "data", 4),
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_1','axis_0'}", "data+model", 8),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", "model", 2),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", "data", 4),
        ("mesh['axis_0'=2,'axis_1'=2,'axis_2'=2] {'axis_0','axis_1'}", "data", 4),
        ("something new", "?", 8),
    ],
)
def test_groups_are_told_by_mesh_axes(groups, over, size):
    text = f"""HloModule m

ENTRY %main (a: f32[256]) -> f32[256] {{
  %a = f32[256]{{0}} parameter(0)
  ROOT %r = f32[256]{{0}} all-reduce(%a), channel_id=1, replica_groups={groups}, to_apply=%add
}}
"""
    (found,) = collectives.totals(hlo.parse(text), {"data": 4, "model": 2})
    share = (size - 1) / size
    assert found[:3] == ("all-reduce", over, 1)
    assert (found.payload, found.wire) == (1024, pytest.approx(2 * share * 1024))


ASYNC = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[1024]) -> f32[8192] {
  %a = f32[1024]{0} parameter(0)
  %s = (f32[1024]{0}, f32[8192]{0}) all-gather-start(%a), replica_groups=[1,8]<=[8]
  %f = f32[1024]{0} fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"CYCLES"}
  ROOT %d = f32[8192]{0} all-gather-done(%s)
}
"""


@pytest.mark.parametrize(("cycles", "exposed"), [(0, 1.0), (10**9, 0.0)])
def test_an_asynchronous_collective_hides_behind_what_runs_before_its_end(cycles, exposed):
    machine = topology.Machine("v5e:2x4", 1, topology.CHIPS["v5e"], "tpu", [])
    made = hlo.parse(ASYNC.replace("CYCLES", str(cycles)))
    found = schedule.replay(made, machine, {"data": 8})
    wire = 7 / 8 * 8 * 4096 / (45e9 * 4)
    assert found.exposed == pytest.approx(exposed * wire)
    assert found.total == pytest.approx(max(wire, cycles / 1.5e9))
    assert collectives.totals(made, {"data": 8})[0].overlapping == 7 * 4096


SPARSE_CORE = """HloModule m, is_scheduled=true

%inner (p: f32[1024]) -> f32[8192] {
  %p = f32[1024]{0} parameter(0)
  ROOT %g = f32[8192]{0} all-gather(%p), replica_groups=[1,8]<=[8]
}

%outer (q: f32[1024]) -> f32[8192] {
  %q = f32[1024]{0} parameter(0)
  ROOT %c = f32[8192]{0} custom-call(%q), custom_call_target="x", called_computations={%inner}
}

ENTRY %main (a: f32[1024]) -> f32[8192] {
  %a = f32[1024]{0} parameter(0)
  %s = ((), (), s32[8]) async-start(), calls=%outer
  %e = f32[1024]{0} fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"1500"}
  %u = ((f32[1024]{0}), f32[8192]{0}, s32[8]) async-update(%s, %e)
  %f = f32[1024]{0} fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"CYCLES"}
  ROOT %d = f32[8192]{0} async-done(%u)
}
"""


@pytest.mark.parametrize(("cycles", "exposed"), [(0, 1.0), (10**9, 0.0)])
def test_a_collective_of_a_sparse_core_runs_from_its_operand_to_its_end(cycles, exposed):
    machine = topology.Machine("v5p:2x2x2", 1, topology.CHIPS["v5p"], "tpu", [])
    made = hlo.parse(SPARSE_CORE.replace("CYCLES", str(cycles)))
    found = schedule.replay(made, machine, {"data": 8})
    wire = 7 * 4096 / (90e9 * 4)  # along two of the torus's dimensions
    assert found.exposed == pytest.approx(exposed * wire)
    assert found.hidden == pytest.approx((1 - exposed) * wire)
    assert found.total == pytest.approx(1500 / 1.75e9 + max(wire, cycles / 1.75e9))
    (total,) = collectives.totals(made, {"data": 8})
    assert (total.times, total.wire, total.overlapping) == (1, 7 * 4096, 7 * 4096)


ROWS = """HloModule m, is_scheduled=true

%picked (p: f32[16,1024], i: s32[8]) -> f32[8,1024] {
  %p = f32[16,1024]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  ROOT %g = f32[8,1024]{1,0} gather(%p, %i), offset_dims={1}
}

%added (p: f32[16,1024], i: s32[8], r: f32[8,1024]) -> f32[16,1024] {
  %p = f32[16,1024]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  %r = f32[8,1024]{1,0} parameter(2)
  ROOT %s = f32[16,1024]{1,0} scatter(%p, %i, %r), update_window_dims={1}, to_apply=%sum
}

ENTRY %main (a: f32[16,1024], i: s32[8]) -> f32[16,1024] {
  %a = f32[16,1024]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  %s = ((), (), s32[8]) async-start(), calls=%picked
  %u = ((f32[16,1024]{1,0}), f32[8,1024]{1,0}, s32[8]) async-update(%s, %a, %i)
  %f = f32[1024]{0} fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"CYCLES"}
  %d = f32[8,1024]{1,0} async-done(%u)
  ROOT %e = f32[16,1024]{1,0} fusion(%a, %i, %d), kind=kCustom, calls=%added, backend_config={"estimated_cycles":"9"}
}
"""  # noqa: E501


@pytest.mark.parametrize("cycles", [0, 20, 10**6])
def test_rows_that_the_data_names_take_the_time_of_reading_and_writing_them(cycles):
    """A gather on a sparse core, beside a fusion; then a scatter of a few cycles."""
    machine = topology.Machine("v5p:2x2x2", 1, topology.CHIPS["v5p"], "tpu", [])
    found = schedule.replay(hlo.parse(ROWS.replace("CYCLES", str(cycles))), machine, {"data": 8})
    moved = 2 * 4 * 8192 / 2.765e12
    assert found.total == pytest.approx(max(moved, cycles / 1.75e9) + moved)
    assert found.copies == pytest.approx(max(moved - cycles / 1.75e9, 0.0))


MOVE = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[8192]) -> f32[8192] {
  %a = f32[8192]{0} parameter(0)
  %s = ((f32[8192]{0}), f32[8192]{0:T(1024)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:8192]}
  %f = f32[1024]{0} fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"CYCLES"}
  ROOT %d = f32[8192]{0:T(1024)S(1)} slice-done(%s)
}
"""


@pytest.mark.parametrize("cycles", [0, 20, 10**6])
def test_a_move_to_fast_memory_hides_behind_what_runs_before_its_end(cycles):
    machine = topology.Machine("v5e:2x4", 1, topology.CHIPS["v5e"], "tpu", [])
    found = schedule.replay(hlo.parse(MOVE.replace("CYCLES", str(cycles))), machine, {"data": 8})
    moved = 4 * 8192 / 0.81e12  # read once; to HBM it would be written there too
    assert found.total == pytest.approx(max(moved, cycles / 1.5e9))
    assert found.copies == pytest.approx(max(moved - cycles / 1.5e9, 0.0))
    there = MOVE.replace("CYCLES", "0").replace("T(1024)S(1)", "T(1024)")
    assert schedule.replay(hlo.parse(there), machine, {}).total == pytest.approx(2 * moved)


SLICES = """HloModule m, is_scheduled=true

ENTRY %main (a: f32[1024]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %t = token[] after-all()
  %s = (f32[1024]{0}, u32[], token[]) send(%a, %t), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.9_0",_xla_megascale_transfer_type="ALL_REDUCE"}
  %r = (f32[1024]{0}, u32[], token[]) recv(%t), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.9_0",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sd = token[] send-done(%s), channel_id=3
  ROOT %rd = (f32[1024]{0}, token[]) recv-done(%r), channel_id=2
}
"""  # noqa: E501


def test_what_slices_exchange_is_a_collective_over_replica():
    made = hlo.parse(SLICES)
    (found,) = collectives.totals(made, {"replica": 2, "data": 4})
    assert found == ("all-reduce", "replica", 1, 4096, 4096, 4096)
    machine = topology.Machine("v5e:2x2", 2, topology.CHIPS["v5e"], "tpu", [])
    time = schedule.replay(made, machine, {"replica": 2, "data": 4})
    assert time.exposed == pytest.approx(4096 / topology.NETWORK)


def test_an_overflow_is_read():
    message = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory
space hbm. Used 21.50G of 15.75G hbm. Exceeded hbm capacity by 5.75G.

Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_name="jit(update)/attention/dot_general"
     Shape: f32[4,32,2048,2048]{3,2,1,0:T(8,128)}
     ==========================

  2. Size: 512.0M
     Shape: bf16[7]{0}
"""
    found = memory.overflow(message)
    assert (found.kind, found.needed) == ("hbm", int(21.5 * 2**30))
    assert found.arrays[0] == ("jit(update)/attention/dot_general f32[4,32,2048,2048]", 8 * 2**30)
    assert found.arrays[1][1] == 512 * 2**20
    assert memory.overflow("INTERNAL: something else") is None


def test_an_overflow_without_a_list_is_read():
    message = """RESOURCE_EXHAUSTED: CompileTimeHbmOom: Ran out of memory on HBM, the total memory
required for HLO temporaries (27.71G) exceeds available HBM (15.75G). HLO module: jit_update."""
    assert memory.overflow(message) == ("hbm", int(27.71 * 2**30), int(15.75 * 2**30), [])
    text = "%0 = add %1 : tensor<4x8xbf16> loc tensor<16xi1> tensor<2x2xui32> tensor<4x9xf32>"
    assert memory.largest_tensors(text, 2) == [
        ("f32[4x9] over all devices", 144),
        ("bf16[4x8] over all devices", 64),
    ]


def test_bytes_of_arrays():
    assert hlo.Array("bf16", (3, 5)).bytes == 30
    assert hlo.Array("s4", (3,)).bytes == 2
    assert np.dtype(np.float32).itemsize * 6 == hlo.Array("f32", (2, 3)).bytes
