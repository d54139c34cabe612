from lorakit.runs import EvaluationRecord, RecordLog, StepRecord
from lorakit.train.curve import draw_loss_curve


def test_the_curve_is_drawn_from_the_records_alone(tmp_path):
    log = RecordLog(tmp_path)
    for step in range(1, 5):
        log.append(StepRecord(step, step / 2, 4.0 / step, 1e-3, 1.0, 2, 30, 10, 0.1))
    log.append(EvaluationRecord(4, 2.0, 1.5, 5, 50, 0.1))
    file = draw_loss_curve(tmp_path)
    assert file.name == "loss_curve.png"
    assert file.stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lorakit-written.json",
        "events.jsonl",
        "loss_curve.png",
    ]


def test_a_run_without_validation_has_a_curve_too(tmp_path):
    RecordLog(tmp_path).append(StepRecord(1, 1.0, 4.0, 1e-3, 1.0, 2, 30, 10, 0.1))
    assert draw_loss_curve(tmp_path).is_file()


def test_epochs_and_the_loss_of_the_base_are_marked(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {"axvline": [], "axhline": []}
    for name, values in drawn.items():
        monkeypatch.setattr(Axes, name, lambda self, value, values=values, **_: values.append(value))
    log = RecordLog(tmp_path)
    for step in range(1, 7):
        log.append(StepRecord(step, step / 2, 4.0 / step, 1e-3, 1.0, 2, 30, 10, 0.1))
    draw_loss_curve(tmp_path, base_loss=2.5)
    assert drawn == {"axvline": [2, 4], "axhline": [2.5]}
    draw_loss_curve(tmp_path, base_loss=float("inf"))
    assert drawn["axhline"] == [2.5]
