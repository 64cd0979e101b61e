"""How others count the FLOPs of a training token. A ratio of two utilisations is fair only within one of these.

| name          | scores | counted weights                            | source                                        |
| ------------- | ------ | ------------------------------------------ | --------------------------------------------- |
| six_n         | none   | N but the embedding                        | Kaplan et al., arXiv 2001.08361, table 1      |
| six_n_all     | none   | N                                          | FlagPerf's READMEs                            |
| palm          | square | N                                          | PaLM, arXiv 2204.02311, appendix B            |
| llm_foundry   | square | N                                          | llm-foundry, scripts/train/benchmarking       |
| megatron_2021 | square | GPT of feed-forward width 4h, plus head    | Narayanan et al., arXiv 2104.04473, equation 3|
| megatron      | causal | matrices but the router                    | Megatron-LM since 2025                        |
| torchtitan    | square | N but the embedding                        | torchtitan, num_flops_per_token               |

N is `longcat.costs.workload.Workload.formula_parameters`.
"""

from __future__ import annotations

from longcat.costs.workload import Workload


def six_n(parameters: float) -> float:
    """6N: two FLOP forward and four backward for each weight, attention scores left out."""
    return 6 * parameters


def palm(parameters: float, attention_width: float, sequence_length: int) -> float:
    """6N + 12LHQT, where `attention_width` is LHQ: layers x heads x head dimension."""
    return 6 * parameters + 12 * attention_width * sequence_length


def llm_foundry(parameters: float, layers: int, hidden_size: int, sequence_length: int) -> float:
    """(6N + 12 layers hidden T), N with embedding. Like PaLM's where heads x head dimension is the hidden size."""
    return palm(parameters, layers * hidden_size, sequence_length)


def megatron_2021(
    layers: int, hidden_size: int, vocabulary: int, sequence_length: int, *, recomputation: bool
) -> float:
    """Equation 3: 96 l h^2 (1 + s/6h + V/16lh), with one more forward pass of the layers. Without it 72 and V/12lh.

    The well-known A100 rows of 2021 use the first one: they are utilisations of the hardware (HFU).
    """
    factor = 96 if recomputation else 72
    scores = sequence_length / (6 * hidden_size)
    head = 6 * vocabulary / (factor * layers * hidden_size)
    return factor * layers * hidden_size**2 * (1 + scores + head)


def megatron(workload: Workload, sequence_length: int) -> float:
    """Every matrix but the router's, and half the square of scores."""
    parts = workload.flops(sequence_length, "causal")
    return sum(part.training for name, part in parts.items() if name != "router")


def torchtitan(workload: Workload, sequence_length: int) -> float:
    """PaLM's formula, N without the embedding: norms count as if they were matrices."""
    parameters = workload.formula_parameters - workload.embedding_parameters
    return palm(parameters, workload.attention_width, sequence_length)


def side_by_side(workload: Workload, sequence_length: int) -> dict[str, float]:
    """FLOP of a training token as each source counts them, and as we do."""
    n = workload.formula_parameters
    return {
        "longcat": workload.training_flops(sequence_length),
        "longcat_full_attention": workload.training_flops(sequence_length, "full"),
        "six_n": six_n(n - workload.embedding_parameters),
        "six_n_all": six_n(n),
        "palm": palm(n, workload.attention_width, sequence_length),
        "llm_foundry": llm_foundry(n, workload.layers, workload.hidden_size, sequence_length),
        "megatron_2021": workload.training_flops(sequence_length, "full"),  # its equation without recomputation
        "megatron": megatron(workload, sequence_length),
        "torchtitan": torchtitan(workload, sequence_length),
    }
