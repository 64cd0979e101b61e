"""The preset that trains on questions about local services, and answers them."""

from longcat.config import load_config
from longcat.corpus.checks import check_corpus
from longcat.evaluation.checks import check_evaluation
from longcat.evaluation.suites import find_suite
from longcat.local_services.tasks import TASKS
from longcat.local_services.text import LANGUAGES


def test_the_preset_is_scored_by_all_questions_and_does_not_train_on_them():
    config = load_config("tiny-services")
    check_corpus(config)
    check_evaluation(config)
    assert config.corpus.decontaminate == ["data"]
    assert {source.language for source in config.corpus.sources} == set(LANGUAGES)
    scored = str(find_suite("tasks").identity(config))
    for task in TASKS:
        for language in LANGUAGES:
            assert f"'local_services_{task}_{language}_choice'" in scored
