"""What Prefect shows of training."""

import base64
from types import SimpleNamespace

from longcat.interchange.checkpoint_facts import CheckpointFacts, LayoutSince
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.tasks.pretrain import checkpoint_table, training_page


def test_the_page_of_training_has_the_pictures_there_are(tmp_path):
    checkpoint = SimpleNamespace(path=tmp_path, facts=SimpleNamespace(headline="loss 3.5 <b>"))
    assert "![" not in training_page(checkpoint)
    CheckpointFolder(tmp_path).expert_load_picture.write_bytes(b"picture")
    page = training_page(checkpoint)
    assert "loss 3.5 &lt;b&gt;" in page and f"`{tmp_path}`" in page
    assert f"(data:image/png;base64,{base64.b64encode(b'picture').decode()})" in page
    assert page.count("![") == 1


def test_the_table_of_a_checkpoint_is_for_people():
    layouts = (LayoutSince(0, 1, {"pipeline": 1}), LayoutSince(60, 2, {"pipeline": 1, "replicate": 2}))
    facts = CheckpointFacts(
        parameters=1_630_000, steps=1200, tokens=614_400, final_loss=3.9647412061691285, mfu=0.1234, peak_flops=4.04e11,
        tokens_per_second=5372.4, seconds_training=200.0, layouts=layouts, processes=2, parallel={"pipeline": 1},
    )  # fmt: skip
    assert {row["what"]: row["value"] for row in checkpoint_table(facts)} == {
        "parameters": "1.63 M",
        "steps": "1,200",
        "tokens trained on": "614,400",
        "final loss": "3.9647 nats per token",
        "speed": "5,372 tokens/s",
        "MFU": "12.34%",
        "peak that the MFU is of": "0.404 TFLOP/s",
        "layout": "1 process from step 1 on; 2 processes (replicate 2) from step 61 on",
        "training took": "3 min 20 s",
    }
    imported = CheckpointFacts(parameters=2_000_000, imported_from="LongCat-Flash-Lite", notes=("mtp.x", "mtp.y"))
    assert {row["what"]: row["value"] for row in checkpoint_table(imported)} == {
        "parameters": "2.00 M",
        "imported from": "LongCat-Flash-Lite",
        "left out of it": "mtp.x; mtp.y",
    }
