"""The report sections of a run agree with its other files, for every model and every kind of run."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import kd
from kd.commands.recipe_settings import CHOSEN_EPOCH
from kd.commands.run.disagreements import CLASSES, PLACES, choose_classes, disagreement_masks
from kd.commands.run.report import LAST_EPOCH, _show_curves, run_part
from kd.commands.run.report_gallery import encode_image, show_disagreements
from kd.commands.run.report_plots import confusion_difference
from kd.commands.run.report_students import compare_confusions, compare_students, compare_with_teacher
from kd.commands.run.results import Run, Timings
from kd.evaluation.fidelity import fidelity
from kd.evaluation.latency import Latency
from kd.evaluation.two_models import mcnemar, verdict
from kd.report.html import render
from kd.report.page import ORDER, Part, page
from kd.report.provenance import provenance
from tests.cheap import figures
from tests.commands.run.test_results import NAMES, a_run, entries_of, manifest_of, some_timings
from tests.report.test_page import EVIL, parsed, sections

pytestmark = pytest.mark.pictures

SECTIONS = [name for name in ORDER if name not in ("map", "slices")]


def a_part(run: Run, *, timings: Timings | None = None, command: str = "python main.py") -> Part:
    return run_part(
        run,
        weights=manifest_of(run),
        entries=entries_of(run),
        timings=timings or some_timings(),
        command=command,
    )


@pytest.fixture(scope="module")
def run() -> Run:
    return a_run()


@pytest.fixture(scope="module")
def part(run: Run) -> Part:
    torch.manual_seed(0)
    return a_part(run)


@pytest.mark.parametrize(
    ("chosen", "first", "rest"),
    [
        ((), "", ""),
        (("teacher",), "the teacher", "the control and the distilled student"),
        (("control", "distilled"), "the control and the distilled student", "the teacher"),
        (NAMES, "", ""),
    ],
)
def test_the_models_whose_epoch_was_chosen_are_named(chosen: tuple[str, ...], first: str, rest: str) -> None:
    run = a_run()
    for name in chosen:
        run.histories[name].kept = 1
    curves = str(_show_curves(run))
    expected = f"The final weights of {first} are those of the epoch with the best"
    if first:
        assert expected in curves
        assert f"Those of {rest} are the weights after the last epoch" in curves
    else:
        assert (LAST_EPOCH in curves, CHOSEN_EPOCH in curves) == (not chosen, bool(chosen))


def html_of(part: Part) -> dict[str, str]:
    """Return each section as HTML, by name."""
    return {section.name: render(section.blocks) for section in part.sections}


@pytest.fixture(scope="module")
def html(part: Part) -> dict[str, str]:
    return html_of(part)


def cells(html: str) -> list[str]:
    """Return the text of all table cells, without markup."""
    return [
        parsed(cell).text.replace("\u00a0", " ") for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", html, re.DOTALL)
    ]


# --- class names


def test_class_names_are_shown_and_escaped(run: Run) -> None:
    classes = [f"<b>class & {label}</b>" for label in range(run.logits["teacher"].shape[1])]
    torch.manual_seed(0)
    html = html_of(a_part(replace(run, classes=classes)))
    assert any(
        cell.startswith("<b>class & ") and " predicted as <b>class & " in cell for cell in cells(html["confusions"])
    )
    assert "Label &lt;b&gt;class &amp; " in html["gallery"]
    assert not any("<b>class" in text for text in html.values())


# --- all sections


def test_every_section_exists_and_has_text(html: dict[str, str]) -> None:
    assert list(html) == SECTIONS
    assert all(len(parsed(text).text) > 100 for text in html.values())


def test_every_image_and_figure_has_a_description(html: dict[str, str]) -> None:
    document = parsed("".join(html.values()))
    assert all(image["alt"] for image in document.all("img"))
    names = {attributes["id"] for _, attributes in document.elements if "id" in attributes}
    drawings = document.all("svg")
    assert len(drawings) > 6
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert set(drawing["aria-labelledby"].split()) <= names


def test_a_chart_has_a_table_in_its_section(html: dict[str, str]) -> None:
    for name, text in html.items():
        assert "<svg" not in text or "<table" in text, name


def test_the_page_is_small(part: Part) -> None:
    assert len(page([part])) < 500_000


def test_the_verdict_and_its_tone_follow_the_test(run: Run, part: Part) -> None:
    wrong = {name: run.wrong[name] for name in NAMES}
    test = mcnemar(wrong["control"], wrong["distilled"])
    assert part.verdict == verdict(int(wrong["control"].sum()), int(wrong["distilled"].sum()), test)
    assert part.tone == "open"
    perfect = nn.functional.one_hot(run.labels, 4).float()
    with figures(drawn=False):
        better, worse = (
            a_part(replace(run, logits={**run.logits, better: perfect, other: -perfect}))
            for better, other in (("distilled", "control"), ("control", "distilled"))
        )
    assert (better.tone, worse.tone) == ("better", "worse")
    assert "is better:" in better.verdict
    assert "Better, in this one pair" in page([better]).decode()
    assert "kd compare" in html_of(part)["verdict"]


@pytest.mark.slow
def test_only_the_costs_differ_between_two_equal_runs(run: Run) -> None:
    slower = Timings(dict.fromkeys(NAMES, 9.0), dict.fromkeys(NAMES, Latency(1, 2, 3, 1, "cpu")), "another processor")
    pages = [page([a_part(run, timings=some_timings())]), page([a_part(a_run(), timings=slower)])]
    first, second = map(sections, pages)
    assert {name for name in first if first[name] != second[name]} == {"cost"}
    outside = [re.sub(r'<section id="cost".*?</section>', "", content.decode(), flags=re.DOTALL) for content in pages]
    assert outside[0] == outside[1]


def test_user_input_is_escaped() -> None:
    run = replace(a_run(toy=EVIL), config={EVIL: EVIL, "EPOCHS": 2})
    run.histories["control"].notes.append(EVIL)
    content = page([a_part(run, command=f"python main.py --data-dir {EVIL}")])
    document = parsed(content)
    assert not document.all("script")
    assert all(image.get("src", "").startswith("data:image/png;base64,") for image in document.all("img"))
    assert not [attributes for _, attributes in document.elements if "onerror" in attributes]
    assert document.text.count("<script>alert('x')</script>") == 5  # stamp, note, name, value and command


def test_stamp_and_settings_are_passed_on(part: Part) -> None:
    assert part.toy == "LIMIT=300"
    assert dict(part.settings) == {"EPOCHS": "2", "LIMIT": "None", "ALPHA": "0.5"}


def test_a_training_note_is_shown_above_the_cards() -> None:
    run = a_run()
    for name in NAMES[1:]:
        run.histories[name].notes.append("They saw different batches.")
    with figures(drawn=False):
        verdict_section = html_of(a_part(run))["verdict"]
    assert verdict_section.count("They saw different batches.") == 1
    assert verdict_section.index("They saw") < verdict_section.index('class="card')


# --- each section


def test_the_table_shows_the_metrics(run: Run, html: dict[str, str]) -> None:
    texts = cells(html["table"])
    for name in NAMES:
        errors = int(run.wrong[name].sum())
        assert f"{errors}" in texts
        assert f"{100 * (1 - errors / 40):.2f} %" in texts
    at = texts.index("NLL, nats")
    expected = [float(nn.functional.cross_entropy(run.logits[name], run.labels)) for name in NAMES]
    assert [float(cell) for cell in texts[at + 1 : at + 4]] == pytest.approx(expected, abs=1e-4)


def test_the_curves_are_listed_by_epoch(run: Run, html: dict[str, str]) -> None:
    texts = cells(html["curves"])
    at = texts.index("2: cross-entropy, training")
    assert texts[at + 1 : at + 4] == [f"{run.histories[name]['train_ce'][1]:.4f}" for name in NAMES]
    at = texts.index("2: soft term, validation")
    assert texts[at + 1 : at + 4] == ["–", "–", "0.2500"]


def test_the_students_are_compared_image_by_image(run: Run, html: dict[str, str]) -> None:
    control, distilled = run.wrong["control"], run.wrong["distilled"]
    counts = [int((a & b).sum()) for a in (control, ~control) for b in (distilled, ~distilled)]
    texts = cells(html["comparison"])
    assert [int(texts[texts.index(f"control {what}") + i]) for what in ("wrong", "right") for i in (1, 2)] == counts


def test_equal_students_are_not_compared_further(run: Run) -> None:
    equal = replace(run, logits={**run.logits, "distilled": run.logits["control"]})
    assert "There is no test image on which exactly one student is wrong." in render(compare_students(equal))
    assert "two students make the same number of errors" in render(compare_confusions(equal))
    assert "same class for every test image" in render(show_disagreements(equal))
    assert a_part(equal).tone == "open"


def test_fidelity_is_shown_for_right_and_wrong_teacher_predictions(run: Run) -> None:
    texts = cells(render(compare_with_teacher(replace(run, temperature=3))))
    match = fidelity(run.logits["distilled"], run.logits["teacher"], run.labels, temperature=3).teacher_wrong
    assert match
    at = texts.index(f"teacher wrong: {match.images}", texts.index("distilled")) + 5
    assert texts[at + 1 : at + 5] == [
        "distilled",
        f"{100 * match.agreement:.2f} %",
        f"{match.kl:.4f}",
        f"{match.softened_kl:.4f}",
    ]


def test_a_perfect_teacher_has_no_row_of_errors(run: Run) -> None:
    perfect = replace(run, logits={**run.logits, "teacher": 9 * nn.functional.one_hot(run.labels, 4).float()})
    assert "teacher wrong: 0" in cells(render(compare_with_teacher(perfect)))
    assert a_part(perfect)


def test_confusions_count_mended_and_new_errors(run: Run) -> None:
    change = run.confusion_matrices["distilled"] - run.confusion_matrices["control"]
    expected = {(t, p): int(change[t, p]) for t in range(4) for p in range(4) if t != p and change[t, p]}
    assert {(c.true, c.predicted): c.difference for c in run.confusions} == expected
    assert run.more_confusions - run.fewer_confusions == sum(expected.values())
    predictions = {name: run.logits[name].argmax(dim=1).tolist() for name in NAMES}
    rows = list(zip(run.labels.tolist(), predictions["control"], predictions["distilled"], strict=True))
    for c in run.confusions:
        of_class = [(control, distilled) for label, control, distilled in rows if label == c.true]
        assert c.control == sum(control == c.predicted for control, _ in of_class)
        assert c.distilled == sum(distilled == c.predicted for _, distilled in of_class)
        assert c.mended == of_class.count((c.predicted, c.true))
        assert c.new == of_class.count((c.true, c.predicted))
        concerned = [i for i, row in enumerate(rows) if row[0] == c.true and c.predicted in row[1:]]
        softened = (run.logits["teacher"][concerned].double() / 5).softmax(dim=1)[:, c.predicted]
        assert c.teacher == pytest.approx(float(softened.mean()))


def test_a_matrix_too_large_to_read_is_not_drawn(run: Run) -> None:
    wide = {name: nn.functional.pad(values, (0, 30), value=-99.0) for name, values in run.logits.items()}
    assert "<svg" in render(compare_confusions(run))
    large = render(compare_confusions(replace(run, logits=wide)))
    assert "<svg" not in large
    assert "<table" in large


def test_differences_have_signs_as_well_as_colours() -> None:
    figure = confusion_difference(torch.tensor([[0, -3], [2, 0]]))
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["+2", "−3"]


def test_the_costs_are_the_measured_ones(run: Run, html: dict[str, str]) -> None:
    texts = cells(html["cost"])
    assert texts[texts.index("latency, median, ms") + 1] == "0.100"
    assert texts[texts.index("training, s") + 1] == "1.2"
    assert "1 thread" in html["cost"]


# --- gallery


def test_the_kinds_of_disagreement_are_disjoint_and_complete(run: Run) -> None:
    kinds = disagreement_masks(run.wrong, run.predictions)
    differ = run.logits["control"].argmax(dim=1) != run.logits["distilled"].argmax(dim=1)
    assert torch.equal(torch.stack([*kinds.values()]).sum(dim=0), differ.long())
    assert not (kinds["only the control errs"] & run.wrong["distilled"]).any()
    assert run.disagreements.items == int(differ.sum())
    assert run.disagreements.kinds == {kind: int(member.sum()) for kind, member in kinds.items()}


def test_the_gallery_shows_images_on_which_the_students_disagree(run: Run, html: dict[str, str]) -> None:
    numbers = [int(n) for n in re.findall(r"<br>test image (\d+)<", html["gallery"])]
    differ = run.logits["control"].argmax(dim=1) != run.logits["distilled"].argmax(dim=1)
    assert len(numbers) == len(set(numbers)) == min(PLACES, int(differ.sum()))
    assert differ[numbers].all()
    example = run.disagreements.examples[0]
    assert example.item == numbers[0]
    softened = (run.logits["teacher"][numbers[0]].double() / 5).softmax(dim=0)
    assert example.probabilities["softened"] == pytest.approx(softened.tolist())
    two = softened.topk(2)
    text = ", ".join(f"{c} ({100 * p:.0f} %)" for p, c in zip(two.values.tolist(), two.indices.tolist(), strict=True))
    assert text in parsed(html["gallery"]).text.replace("\u00a0", " ")


def test_of_many_classes_the_true_and_the_likely_ones_are_chosen() -> None:
    assert choose_classes({"teacher": torch.full((5,), 0.2)}, 1) == [0, 1, 2, 3, 4]
    probabilities = torch.arange(100.0) / 4950
    rows = {"teacher": probabilities, "softened": probabilities}
    assert choose_classes(rows, 1) == [1, *range(100 - CLASSES + 1, 100)]


def decoded(image: Tensor, *, ink: bool = False) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_image(image, ink=ink)))))


def test_a_drawing_becomes_transparent_and_other_images_keep_their_pixels() -> None:
    image = torch.tensor([[[0.0, 1.0], [0.5, 0.0]]])
    pixels = decoded(image, ink=True)
    assert pixels[..., 3].tolist() == [[0, 255], [128, 0]]
    assert not pixels[..., :3].any()
    coloured = torch.stack([image[0], image[0].flip(0), image[0]])
    assert decoded(coloured)[..., 0].tolist() == [[0, 255], [128, 0]]
    assert decoded(image).tolist() == [[0, 255], [128, 0]]
    assert decoded(torch.zeros(1, 2, 2), ink=True)[..., 3].tolist() == [[0, 0], [0, 0]]


# --- provenance


def digests(dataset: object) -> list[str]:
    texts = cells(render(provenance({}, {"x.pth": {"sha256": "ab" * 32, "bytes": 7}}, dataset, "kd run")))
    return texts[texts.index("test data") : texts.index("version")]


class Unknown(Dataset[Any]):
    def __init__(self) -> None:
        self.thing = object()


class Named(Unknown):
    def fingerprint(self) -> str:
        return "version 1"


def test_hashes_of_a_dataset_and_its_subset_are_shown(run: Run) -> None:
    assert isinstance(run.test, kd.ImageDataset)
    whole, subset = digests(run.test), digests(Subset(run.test, range(30)))
    assert whole[2::2] == ["inputs", "labels"]
    assert set(whole[3::2]) <= set(subset)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in whole[3::2])


def test_data_without_a_hash_is_named() -> None:
    assert digests(Unknown())[2:] == ["Unknown", "none: the content cannot be inspected"]
    assert re.fullmatch("[0-9a-f]{64}", digests(Named())[3])


def test_a_missing_command_is_stated(run: Run) -> None:
    assert "functions were called from Python" in render(provenance({}, {}, run.test, ""))


def test_colour_images_are_shown_in_colour() -> None:
    run = a_run()
    pixels = torch.randint(0, 256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    dataset = kd.ImageDataset(pixels, run.labels, mean=0.5, std=0.25)
    assert 'class="colours"' in render(show_disagreements(replace(run, test=dataset)))
