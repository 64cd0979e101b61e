"""The presets: sizes of their models, and what they train on."""

from __future__ import annotations

from docs.reference.markdown import code, table
from longcat.commands.presets import preset_rows
from longcat.config import load_config
from longcat.printable import large_count

HEAD = """# Presets

Who chooses where to start compares the presets here: whole configurations by name, of which a file or `--set` changes what
it names. For example:

    longcat presets --show small                     # every setting, and parameters by component
    longcat run --preset small --set seed=1

*Activated* are the weights that a mean token is multiplied by. `longcat pretrain --preset NAME --dry-run --world-size N`
tells what a step of one needs on N devices.
"""


def page() -> str:
    """Return the page: a table, and what each preset says of itself."""
    sizes, shapes = [], []
    for row in preset_rows():
        config = load_config(row["name"])
        model, training = config.model, config.training
        size = {
            "preset": code(row["name"]),
            "parameters": large_count(row["total_parameters"]),
            "activated": large_count(row["activated_parameters"]),
            "sequence": f"{row['sequence_length_tokens']:,}",
            "training tokens": large_count(row["training_tokens"]),
            "steps x sequences": f"{training.steps:,} x {training.global_batch_sequences:,}",
        }
        shape = {
            "preset": code(row["name"]),
            "layers": str(model.num_layers),
            "hidden": f"{model.hidden_size:,}",
            "heads": str(model.num_attention_heads),
            "experts: routed + zero": f"{model.n_routed_experts} + {model.zero_expert_num}",
            "slots": str(model.moe_topk),
            "vocabulary": f"{model.vocabulary:,}",
            "attention": "sparse" if model.sparse_attention else "dense",
            "n-grams": "yes" if model.ngram else "no",
            "MTP": str(model.mtp_num_layers),
        }
        sizes.append(size)
        shapes.append(shape)
    parts = [
        HEAD,
        "## Size { #size }",
        table(list(sizes[0]), [list(size.values()) for size in sizes]),
        "## Shape { #shape }",
        table(list(shapes[0]), [list(shape.values()) for shape in shapes]),
        "The settings are explained in the section [`model`](settings.md#model).",
    ]
    return "\n\n".join(parts) + "\n"
