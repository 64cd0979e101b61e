"""What Prefect shows of training."""

import base64
from types import SimpleNamespace

from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.tasks.pretrain import training_page


def test_the_page_of_training_has_the_pictures_there_are(tmp_path):
    checkpoint = SimpleNamespace(path=tmp_path, facts=SimpleNamespace(headline="loss 3.5 <b>"))
    assert "![" not in training_page(checkpoint)
    CheckpointFolder(tmp_path).expert_load_picture.write_bytes(b"picture")
    page = training_page(checkpoint)
    assert "loss 3.5 &lt;b&gt;" in page and f"`{tmp_path}`" in page
    assert f"(data:image/png;base64,{base64.b64encode(b'picture').decode()})" in page
    assert page.count("![") == 1
