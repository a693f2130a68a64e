"""``kd predict`` for models of tables: the rows are encoded as in training, by the manifest alone."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest

from kd import cli
from kd.deploy.manifest import read_manifest

FLAGS = ["--teacher", "mlp:8", "--student", "mlp:8", "--epochs", "2", "--batch-size", "16"]


def write_table(path: Path, rows: list[dict[str, str]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run on a table with categories and missing values."""
    folder, draw = tmp_path_factory.mktemp("tables"), random.Random(0)
    rows = []
    for number in range(240):
        tall = draw.random() < 0.5
        height = "" if draw.random() < 0.1 else f"{draw.gauss(180 if tall else 160, 5):.2f}"
        rows.append({"height": height, "colour": draw.choice(["red", "blue"]), "kind": "tall" if tall else "small"})
        rows[-1]["weight"] = f"{draw.gauss(70, 9) + number / 1e6:.6f}"
    write_table(folder / "people.csv", rows)
    assert (
        cli.main(
            ["run", "--data", str(folder / "people.csv"), "--target", "kind", "--out", str(folder / "run"), *FLAGS]
        )
        == 0
    )
    return folder / "run"


def predict(run: Path, *arguments: object, code: int = 0) -> list[dict[str, str]]:
    file = run.parent / "answers.csv"
    file.unlink(missing_ok=True)
    assert cli.main(["predict", "--model", str(run), "--csv", str(file), *map(str, arguments)]) == code
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def read_rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run.parent / "people.csv").read_text(encoding="utf-8"))))


def test_the_test_rows_get_the_predictions_of_the_run_with_columns_in_any_order(run: Path, tmp_path: Path) -> None:
    split = json.loads((run / "results" / "metrics" / "split.json").read_bytes())["rows"]["test"]
    rows = [read_rows(run)[number] for number in split]
    saved = (run / "results" / "predictions" / "test_predictions.csv").read_text(encoding="utf-8")
    expected = [
        (row["distilled_prediction_name"], row["distilled_confidence"]) for row in csv.DictReader(io.StringIO(saved))
    ]
    turned = [{"name": f"person {n}", "weight": r["weight"], **r} for n, r in enumerate(rows)]
    for file in (
        write_table(tmp_path / "rows.csv", rows),
        write_table(tmp_path / "without.csv", [{k: v for k, v in row.items() if k != "kind"} for row in rows]),
        write_table(tmp_path / "turned.tsv", turned, "\t"),
    ):
        assert [(row["class"], row["probability"]) for row in predict(run, file)] == expected, file
    assert predict(run, tmp_path / "turned.tsv", "--ids", "name")[3]["input"].endswith("turned.tsv: person 3")


def test_a_table_without_a_column_of_the_training_table_is_named(run: Path, tmp_path: Path) -> None:
    rows = [{name: cell for name, cell in row.items() if name != "colour"} for row in read_rows(run)]
    (row,) = predict(run, write_table(tmp_path / "rows.csv", rows), code=1)
    assert row["error"].startswith("the table must have the columns of the training data. It lacks")


def test_a_damaged_description_of_the_columns_is_refused(run: Path, tmp_path: Path) -> None:
    content = json.loads((run / "models" / "manifest.json").read_bytes())
    for change in ({"columns": []}, {"columns": [{}]}, {"target": "kind"}, []):
        (tmp_path / "manifest.json").write_text(json.dumps(content | {"table": change}), encoding="utf-8")
        with pytest.raises(ValueError, match="is damaged"):
            read_manifest(tmp_path)


def test_cells_that_cannot_be_used_are_counted_by_column(run: Path, tmp_path: Path) -> None:
    row = {"height": "1,5", "colour": "red", "weight": "70"}
    rows = [row, {**row, "height": "180", "colour": "green"}, {**row, "height": "tall", "colour": "red"}]
    with pytest.warns(UserWarning, match="height|colour|weight") as caught:
        predict(run, write_table(tmp_path / "rows.csv", rows))
    assert [str(warning.message) for warning in caught] == [
        "rows.csv: 2 of 3 cells of 'height' are not numbers and count as missing ('1,5', 'tall'): write numbers as "
        "1234.56.",
        "rows.csv: 1 of 3 cells of 'colour' are levels not in training and count as no level ('green').",
    ]
    with pytest.warns(UserWarning, match="ells* of") as caught:
        predict(run, write_table(tmp_path / "rows.csv", [{**row, "weight": ""}]))
    texts = " ".join(str(warning.message) for warning in caught)
    assert "1 of 1 cells of 'weight' are missing, as never in training, and become the median" in texts
    assert "No cell of 'weight' can be used" in texts
    assert "No cell of 'colour'" not in texts


def test_a_teacher_of_another_encoding_of_the_table_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(run.parent / "people.csv"), "--target", "kind", "--dry-run", *FLAGS[2:]]
    teacher = ["--teacher", f"mlp:8={run / 'models' / 'teacher_model.pth'}", "--out", str(tmp_path / "out")]
    assert cli.main(["run", *data, *teacher]) == 0
    capsys.readouterr()
    assert cli.main(["run", *data, *teacher, "--random-state", "9"]) == 1
    err = capsys.readouterr().err
    assert "It differs in 'height', 'weight'. Give the same file, --random-state and --limit" in err
