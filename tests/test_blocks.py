"""The block: equal to transformers' Qwen3 layer, cached as uncached, exact under its options."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from unimodal.blocks import Block, BlockConfig, attention_plan, dropout
from unimodal.errors import ConfigError
from unimodal.kernels.qk_prologue import rope_tables
from unimodal.patterns import Causal
from unimodal.types import Coordinates, line_grid

CONFIG = BlockConfig(width=24, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=40)


def packed(*lengths: int, padding: int = 0) -> Coordinates:
    """One row of causal documents, then padding."""
    total = sum(lengths) + padding
    document = torch.repeat_interleave(
        torch.tensor([*range(len(lengths)), -1], dtype=torch.int32),
        torch.tensor([*lengths, padding]),
    )[None]
    zeros = torch.zeros(1, total, dtype=torch.int32)
    return Coordinates(
        index=torch.arange(total, dtype=torch.int32)[None],
        document=document,
        segment=zeros,
        kind=zeros,
        full=zeros.bool(),
        grid=line_grid(total)[None],
    )


def tables(length: int, batch: int = 1, start: int = 0) -> tuple[Tensor, Tensor]:
    position = torch.arange(start, start + length).float()[None, :, None].expand(batch, -1, 3)
    return rope_tables(position, CONFIG.head_dim)


def sharpened(config: BlockConfig = CONFIG) -> Block:
    """A block whose attention is far from uniform and whose norms are not ones."""
    block = Block(config)
    with torch.no_grad():
        block.attention.qkv.weight.mul_(3)
        for name, weight in block.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 2.0)
    return block


def test_equals_transformers_qwen3_layer() -> None:
    qwen3 = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    from transformers import Qwen3Config

    block = sharpened()
    config = Qwen3Config(
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=40,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    layer = qwen3.Qwen3DecoderLayer(config, 0)
    q, k, v = block.attention.qkv.weight.split((32, 16, 16))
    gate, up = block.mlp.gate_up.weight.chunk(2)
    layer.load_state_dict(
        {
            "input_layernorm.weight": block.attention_norm.weight,
            "self_attn.q_proj.weight": q,
            "self_attn.k_proj.weight": k,
            "self_attn.v_proj.weight": v,
            "self_attn.q_norm.weight": block.attention.q_norm.weight,
            "self_attn.k_norm.weight": block.attention.k_norm.weight,
            "self_attn.o_proj.weight": block.attention.out.weight,
            "post_attention_layernorm.weight": block.mlp_norm.weight,
            "mlp.gate_proj.weight": gate,
            "mlp.up_proj.weight": up,
            "mlp.down_proj.weight": block.mlp.down.weight,
        }
    )
    x = torch.randn(1, 19, 24)
    rope = tables(19)
    mask = torch.full((1, 1, 19, 19), -torch.inf).triu(1)
    whole = tuple(torch.cat((half, half), -1) for half in rope)
    expected = layer(x, attention_mask=mask, position_embeddings=whole)
    expected = expected[0] if isinstance(expected, tuple) else expected
    got = block(x, rope, attention_plan(packed(19), [Causal()]))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_packed_equals_alone_and_padding_is_never_read() -> None:
    block = sharpened()
    coordinates = packed(5, 9, padding=3)
    x = torch.randn(1, 17, 24)
    x[:, 14:] = torch.nan
    position = torch.cat((torch.arange(5), torch.arange(9), torch.arange(3))).float()
    rope = rope_tables(position[None, :, None].expand(-1, -1, 3), 8)
    got = block(x, rope, attention_plan(coordinates, [Causal()]))
    for start, stop in ((0, 5), (5, 14)):
        plan = attention_plan(packed(stop - start), [Causal()])
        alone = block(x[:, start:stop], tables(stop - start), plan)
        torch.testing.assert_close(got[:, start:stop], alone, rtol=1e-5, atol=1e-5)


def test_gradients_equal_finite_differences_in_float64() -> None:
    block = sharpened().double()
    plan = attention_plan(packed(4, 7), [Causal()])
    rope = tuple(table.double() for table in tables(11))
    x = torch.randn(1, 11, 24, dtype=torch.float64, requires_grad=True)
    inputs = [x, *block.parameters()]
    torch.manual_seed(1)
    direction = torch.randn(1, 11, 24, dtype=torch.float64)
    grads = torch.autograd.grad((block(x, rope, plan) * direction).sum(), inputs)
    step = 1e-6
    for tensor, grad in zip(inputs, grads, strict=True):
        way = torch.randn_like(tensor)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                tensor.add_(way, alpha=sign * step)
                values.append((block(x, rope, plan) * direction).sum())
                tensor.sub_(way, alpha=sign * step)
        slope = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((grad * way).sum(), slope, rtol=1e-6, atol=1e-6)


def test_autocast_keeps_the_stream_in_float32() -> None:
    block = sharpened()
    plan = attention_plan(packed(13), [Causal()])
    x = torch.randn(1, 13, 24, requires_grad=True)
    exact = block(x, tables(13), plan)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = block(x, tables(13), plan)
    assert rounded.dtype == torch.float32
    # Bfloat16 rounds each product to 2 ** -9; a dozen of them meet in an output.
    assert (rounded - exact).abs().max() < 12 * 2**-9 * exact.abs().max()
    rounded.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in block.parameters())


def test_dropout_follows_torchs_seed_and_rests_in_evaluation() -> None:
    block = Block(replace(CONFIG, dropout=0.5))
    plan = attention_plan(packed(6), [Causal()])
    x = torch.randn(1, 6, 24)

    def run() -> Tensor:
        return block(x, tables(6), plan)

    torch.manual_seed(3)
    first = run()
    state = torch.get_rng_state()
    second = run()
    torch.manual_seed(3)
    assert torch.equal(run(), first)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(run(), second)
    block.eval()
    assert torch.equal(run(), run())


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_independently_at_its_rate(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.full((2000, 500), 3.0, requires_grad=True)
    result = dropout(x, rate)
    kept = result > 0
    assert torch.allclose(result[kept], torch.tensor(3 / (1 - rate)), rtol=1e-6)
    result.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad > 0, kept)
    deviations = kept.double() - (1 - rate)
    variance = rate * (1 - rate)
    # Four standard errors, of the share of all, of rows and columns, and of products of neighbours.
    assert deviations.mean().abs() < 4 * (variance / kept.numel()) ** 0.5
    for axis, n in ((0, 2000), (1, 500)):
        spread = deviations.mean(axis).square().mean() * n / variance
        assert abs(spread - 1) < 4 * (2 * n / kept.numel()) ** 0.5
    for offset in (1, 2, 4, 64, 500):
        flat = deviations.flatten()
        assert (flat[offset:] * flat[:-offset]).mean().abs() < 4 * variance / kept.numel() ** 0.5
    again = (dropout(x, rate) > 0).double() - (1 - rate)
    assert (again * deviations).mean().abs() < 4 * variance / kept.numel() ** 0.5


def test_without_qk_norm_there_are_no_weights_for_it() -> None:
    block = Block(replace(CONFIG, qk_norm=False))
    assert not any("q_norm" in name or "k_norm" in name for name, _ in block.named_parameters())
    plan = attention_plan(packed(6), [Causal()])
    assert torch.isfinite(block(torch.randn(1, 6, 24), tables(6), plan)).all()


def test_parameter_names_are_those_of_the_import() -> None:
    assert [name for name, _ in Block(CONFIG).named_parameters()] == [
        "attention_norm.weight",
        "attention.qkv.weight",
        "attention.out.weight",
        "attention.q_norm.weight",
        "attention.k_norm.weight",
        "mlp_norm.weight",
        "mlp.gate_up.weight",
        "mlp.down.weight",
    ]


# Dynamo itself makes an instance of autograd.Function while it traces one.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break() -> None:
    block = sharpened()
    plan = attention_plan(packed(5, 8), [Causal()])
    x = torch.randn(1, 13, 24)
    compiled: nn.Module = torch.compile(block, fullgraph=True, backend="aot_eager")
    got, expected = compiled(x, tables(13), plan), block(x, tables(13), plan)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    weights = list(block.parameters())
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 6, "num_kv_heads": 4}, r"multiple of `num_kv_heads` \(4\), but is 6"),
        ({"head_dim": 7}, "`head_dim` must be even, but is 7"),
        ({"width": 0}, "`width` must be at least 1, but is 0"),
        ({"dropout": 1.0}, "`dropout` must be in"),
        ({"norm_eps": 0.0}, "`norm_eps` must be above 0"),
        ({"rope_theta": float("nan")}, "`rope_theta` must be above 0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BlockConfig(**change)  # type: ignore[arg-type]


# And it looks at `.grad` of tensors that pass from one compiled part to another.
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning", "ignore:The .grad attribute"
)
def test_compiled_around_attention_it_computes_the_same() -> None:
    block = sharpened().train()
    x = torch.randn(1, 20, CONFIG.width, requires_grad=True)
    plan = attention_plan(packed(8, 12), [Causal()])
    found = []
    for _ in range(2):
        result = block(x, tables(20), plan)
        grads = torch.autograd.grad(result.square().sum(), [x, *block.parameters()])
        found.append((result, *grads))
        block.compile_around_attention(backend="aot_eager")
    assert block._compiled is not None
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
