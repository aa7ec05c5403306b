import numpy as np

from worker.training.card import card_lines
from worker.training.judgement import Judged, evaluation


def test_the_card_tells_data_scores_weaknesses_and_lineage() -> None:
    truth = np.repeat([0, 1], 20)
    said = truth.copy()
    said[:6] = 1
    answers = np.eye(2)[said] * 0.8 + 0.1
    labels = {"test": truth, "validation": truth}
    judged = {"frozen": Judged(answers, answers), "fine_tune": Judged(answers, answers)}
    found = evaluation(judged, labels, ["cat `1`", "dog"], "fine_tune")
    found["robustness"] = {
        "pictures": 40,
        "accuracy": 0.85,
        "changes": [
            {"name": "blur", "accuracy": 0.5, "p_value": 0.001},
            {"name": "noise", "accuracy": 0.84, "p_value": 1.0},
        ],
        "border": [{"class_name": "dog", "by_border": 1.0, "by_centre": 0.0}],
    }
    counts = {name: {"train": 70, "validation": 20, "test": 20} for name in ("cat `1`", "dog")}
    text = "\n\n".join(card_lines(found, counts, {"dataset": "pets, version 3", "seed": "0"}))
    assert "| all | 140 | 40 | 40 |" in text
    assert "accuracy 85.0 %, 95 % interval 70.9 % to 92.9 % (Wilson): 34 of 40 pictures right" in text
    assert "`cat  1 `: 70.0 % of 20 pictures found" in text
    assert "`cat  1 ` taken for `dog`: 6 of 20" in text
    assert "blurred: accuracy 50.0 % instead of 85.0 %" in text
    assert "with noise" not in text
    assert "decides by the border: `dog`" in text
    assert "Difference +0.0 points" in text
    assert "calibration: confidence is off by" in text
    assert "- dataset: pets, version 3" in text
