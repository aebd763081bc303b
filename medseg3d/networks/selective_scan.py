"""The selective scan of Mamba: a linear recurrence along a sequence, in plain torch, walked many chunks at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def selective_scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    chunk: int = 32,
    slab: int | None = None,
) -> torch.Tensor:
    r"""The read-out `y_t = c_t · h_t` of the states `h_t = exp(delta_t a) h_(t-1) + delta_t x_t b_t`, with `h_0 = 0`.

    Each of the E channels has N states of its own. Every output depends on its own and earlier positions alone. Within
    a chunk the recurrence is carried out as written, from a zero state, for all chunks of a block at once; the chunks
    are then joined by their end states and their total decays, in rounds that double what is joined. Nothing is ever
    divided by a decay, and a product of decays can only fade to zero, so no length overflows. The backward pass keeps
    the state at the start of every block and computes the others again: `B·L·E·N` numbers never exist at once.

    TorchScript, when it trains, keeps the graph of the same operations instead. An exported graph (torch.export, ONNX)
    has one block, whatever the length, so there they do exist at once.

    Args:
        x: sequence, `(B, L, E)`.
        delta: positive step sizes, `(B, L, E)`.
        a: negative rates of decay, `(E, N)`.
        b: how the input enters the states, `(B, L, N)`.
        c: how the states are read, `(B, L, N)`.
        chunk: positions of a chunk, which are walked one after the other.
        slab: about how many numbers one step of a block works on, enough to hide what a call of torch costs, and few
            enough for a processor's cache: by default 65,536 on a CPU, as measured, and 4 million elsewhere, which was
            not. This and `chunk` change time and memory, not the result.

    Returns:
        `(B, L, E)`, float64 where `x` is, otherwise computed and returned in float32, whatever autocast says.

    References:
        Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, https://arxiv.org/abs/2312.00752;
        the skip `D x`, the gate and the softplus of that paper's kernel are the caller's here.

    Example:
        >>> one = torch.ones(1, 3, 1)
        >>> halving = -torch.log(torch.tensor([[2.0]]))
        >>> selective_scan(one, one, halving, one, one).flatten()  # 1, 1/2 + 1, 3/4 + 1
        tensor([1.0000, 1.5000, 1.7500])
    """
    x, delta, a, b, c = _precise(x), _precise(delta), _precise(a), _precise(b), _precise(c)
    if slab is None:
        slab = 1 << 16 if x.device.type == "cpu" else 1 << 22
    if torch.jit.is_scripting():
        return _scan(x, delta, a.t(), b, c, chunk, slab)[0]
    if torch.compiler.is_exporting():
        # the operations of a graph cannot depend on the length, and each takes time to trace: one block, short chunks
        return _scan(x, delta, a.t(), b, c, min(chunk, 4), slab, one_block=True)[0]
    return _SelectiveScan.apply(x, delta, a, b, c, chunk, slab)


class _SelectiveScan(torch.autograd.Function):
    """The scan with a backward pass that computes the states again, block by block."""

    @staticmethod
    def forward(ctx: Any, x, delta, a, b, c, chunk, slab):
        y, entries = _scan(x, delta, a.t(), b, c, chunk, slab)
        ctx.save_for_backward(x, delta, a, b, c, entries)
        ctx.chunk, ctx.slab = chunk, slab
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor):
        x, delta, a, b, c, entries = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            return *_scan_gradients(x, delta, a.t(), b, c, entries, grads[0], ctx.chunk, ctx.slab), None, None


def _scan(
    x: torch.Tensor,
    delta: torch.Tensor,
    a_t: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    chunk: int,
    slab: int,
    one_block: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The read-out `(B, L, E)` and the states that every block is entered with, `(blocks, B, N, E)`."""
    state = torch.zeros(x.shape[0], a_t.shape[0], x.shape[2], dtype=x.dtype, device=x.device)
    outputs: list[torch.Tensor] = []
    entries: list[torch.Tensor] = []
    for start, stop, chunks in _blocks(x, a_t, chunk, slab, one_block):
        entries.append(state)
        states, decays = _scan_chunks(
            _in_chunks(x[:, start:stop], chunk, chunks),
            _in_chunks(delta[:, start:stop], chunk, chunks),
            a_t,
            _in_chunks(b[:, start:stop], chunk, chunks),
        )
        chunk_entries = _join(states[-1], decays[-1], state)
        outputs.append(_read(states, decays, chunk_entries, _in_chunks(c[:, start:stop], chunk, chunks), stop - start))
        state = torch.addcmul(states[-1][-1], decays[-1][-1], chunk_entries[-1])
    return torch.cat(outputs, dim=1), torch.stack(entries)


def _blocks(
    x: torch.Tensor, a_t: torch.Tensor, chunk: int, slab: int, one_block: bool = False
) -> list[tuple[int, int, int]]:
    """Start, stop and number of chunks of each block: as many whole chunks as fill a slab, the rest in the last."""
    length = x.shape[1]
    if one_block:
        return [(0, length, (length + chunk - 1) // chunk)]
    step = chunk * max(slab // max(x.shape[0] * a_t.numel(), 1), 1)
    blocks: list[tuple[int, int, int]] = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        blocks.append((start, stop, (stop - start + chunk - 1) // chunk))
    return blocks


def _in_chunks(sequence: torch.Tensor, chunk: int, chunks: int) -> torch.Tensor:
    """`(B, S, F)` as `(chunk, chunks, B, F)`; zeros are appended, and a step of size zero leaves a state alone."""
    padded = F.pad(sequence, [0, 0, 0, chunks * chunk - sequence.shape[1]])
    return padded.reshape(sequence.shape[0], chunks, chunk, sequence.shape[2]).permute(2, 1, 0, 3)


def _as_sequence(rows: list[torch.Tensor], length: int) -> torch.Tensor:
    """A `(chunks, B, F)` for each position of a chunk, as `(B, length, F)`."""
    return torch.stack(rows, dim=1).flatten(0, 1)[:length].transpose(0, 1)


def _scan_chunks(
    x: torch.Tensor, delta: torch.Tensor, a_t: torch.Tensor, b: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """States `(chunks, B, N, E)` at each position of a chunk entered with a zero state, and the decay since."""
    states: list[torch.Tensor] = []
    decays: list[torch.Tensor] = []
    driven = delta * x
    for k in range(len(x)):
        decay = _decay(delta[k], a_t)
        state = driven[k].unsqueeze(-2) * b[k].unsqueeze(-1)
        if k > 0:
            state = torch.addcmul(state, decay, states[-1])
            decay = decay * decays[-1]
        states.append(state)
        decays.append(decay)
    return states, decays


def _decay(delta: torch.Tensor, a_t: torch.Tensor) -> torch.Tensor:
    """What one step leaves of each state, `(chunks, B, N, E)`."""
    return (delta.unsqueeze(-2) * a_t).exp_()


def _join(ends: torch.Tensor, decays: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """The state that each chunk is entered with, `(chunks, B, N, E)`, where the first is entered with `state`.

    Each round joins every chunk with the stretch of chunks before it that the earlier rounds have joined.
    """
    chunks = ends.shape[0]
    entry = F.pad(state.unsqueeze(0), [0, 0, 0, 0, 0, 0, 0, chunks - 1])
    ends = torch.addcmul(ends, decays, entry)
    for shift in _doublings(chunks):
        ends = torch.addcmul(ends, decays, _later(ends, shift))
        decays = decays * _later(decays, shift)
    return _later(ends, 1) + entry


def _doublings(chunks: int) -> list[int]:
    """1, 2, 4 and so on while below `chunks`."""
    if not isinstance(chunks, int):
        return [2**k for k in range(20)]  # free in an exported graph: enough for 4 million positions
    shifts: list[int] = []
    shift = 1
    while shift < chunks:
        shifts.append(shift)
        shift *= 2
    return shifts


def _later(values: torch.Tensor, shift: int) -> torch.Tensor:
    """Every chunk's values moved `shift` chunks on, zeros before."""
    return F.pad(values, [0, 0, 0, 0, 0, 0, shift, 0])[: values.shape[0]]


def _read(
    states: list[torch.Tensor], decays: list[torch.Tensor], entries: torch.Tensor, c: torch.Tensor, length: int
) -> torch.Tensor:
    """The read-out `(B, length, E)` once it is known what every chunk is entered with."""
    rows: list[torch.Tensor] = []
    for k in range(len(states)):
        # not a matmul, which autocast would round to 16 bits
        rows.append((torch.addcmul(states[k], decays[k], entries) * c[k].unsqueeze(-1)).sum(-2))
    return _as_sequence(rows, length)


def _scan_gradients(
    x: torch.Tensor,
    delta: torch.Tensor,
    a_t: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    entries: torch.Tensor,
    grad_y: torch.Tensor,
    chunk: int,
    slab: int,
) -> tuple[torch.Tensor, ...]:
    """Gradients of x, delta, a, b and c, given the states that every block was entered with."""
    grads = [torch.empty_like(sequence) for sequence in (x, delta, b, c)]
    grad_a_t = torch.zeros_like(a_t)
    grad_state = torch.zeros_like(entries[0])
    for (start, stop, chunks), entry in zip(
        reversed(_blocks(x, a_t, chunk, slab)), reversed(entries.unbind()), strict=True
    ):
        block = [_in_chunks(sequence[:, start:stop], chunk, chunks) for sequence in (x, delta, b, c, grad_y)]
        rows, part, grad_state = _block_gradients(block, a_t, entry, grad_state)
        for grad, row in zip(grads, rows, strict=True):
            grad[:, start:stop] = _as_sequence(row, stop - start)
        grad_a_t += part
    grad_x, grad_delta, grad_b, grad_c = grads
    return grad_x, grad_delta, grad_a_t.t(), grad_b, grad_c


def _block_gradients(
    block: list[torch.Tensor], a_t: torch.Tensor, entry: torch.Tensor, grad_exit: torch.Tensor
) -> tuple[list[list[torch.Tensor]], torch.Tensor, torch.Tensor]:
    """Gradients of a block: rows of x, delta, b and c, then of `a_t`, then of the state it was entered with."""
    x, delta, b, c, grad_y = block
    states, decays = _scan_chunks(x, delta, a_t, b)
    entries = _join(states[-1], decays[-1], entry)
    for state, decay in zip(states, decays, strict=True):
        state.addcmul_(decay, entries)
    del decays
    steps = [_decay(step, a_t) for step in delta]
    grad_states, grad_entry = _grad_states(steps, c, grad_y, grad_exit)

    rows: list[list[torch.Tensor]] = [[], [], [], []]
    grad_a_t = torch.zeros_like(a_t)
    for k, grad_state in enumerate(grad_states):
        grad_driven = torch.matmul(b[k].unsqueeze(-2), grad_state).squeeze(-2)
        rows[2].append(torch.matmul(grad_state, (delta[k] * x[k]).unsqueeze(-1)).squeeze(-1))
        rows[3].append(torch.matmul(states[k], grad_y[k].unsqueeze(-1)).squeeze(-1))
        grad_exponent = grad_state.mul_(steps[k]).mul_(states[k - 1] if k > 0 else entries)
        rows[0].append(grad_driven * delta[k])
        rows[1].append(grad_driven * x[k] + (grad_exponent * a_t).sum(-2))
        grad_a_t += grad_exponent.mul_(delta[k].unsqueeze(-2)).sum((0, 1))
    return rows, grad_a_t, grad_entry


def _grad_states(
    steps: list[torch.Tensor], c: torch.Tensor, grad_y: torch.Tensor, grad_exit: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Gradients of a block's states and of its entry: the same recurrence, from the last position to the first.

    A state counts for its own read-out and, as far as it decays, for the next state. `grad_exit` is what the block's
    last state counts for in the blocks behind it.
    """
    last = len(steps) - 1
    grads = [c[last].unsqueeze(-1) * grad_y[last].unsqueeze(-2)]
    fades = [torch.ones_like(steps[last])]
    for k in range(last - 1, -1, -1):
        grads.append((c[k].unsqueeze(-1) * grad_y[k].unsqueeze(-2)).addcmul_(steps[k + 1], grads[-1]))
        fades.append(steps[k + 1] * fades[-1])
    # of what leaves a chunk, the first position's decay included
    grad_exits = _join((steps[0] * grads[-1]).flip(0), (steps[0] * fades[-1]).flip(0), grad_exit).flip(0)
    for grad, fade in zip(grads, fades, strict=True):
        grad.addcmul_(fade, grad_exits)
    return grads[::-1], steps[0][0] * grads[-1][0]


def _precise(x: torch.Tensor) -> torch.Tensor:
    """Float64 where it is, otherwise float32."""
    return x if x.dtype == torch.float64 else x.float()
