"""What a person sees and does: the page of a model, its card, and the pages of the API, in a real Chromium."""

import json
import re
import shutil
import subprocess
from hashlib import sha256
from io import BytesIO

import pytest
from PIL import Image

from mlserve.access import Access
from mlserve.contract import Contract, Field, Output, amend, example, infer_field
from mlserve.score import Scored, sklearn_engine

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = api.expect
pytestmark = pytest.mark.browser

BINARY = Output("binary", "income", ("<=50K", ">50K"), ">50K")
MIXED = Contract(
    (
        Field("age", "integer", low=17, high=90, outside="refuse", example=37, description="Age in years."),
        Field("capital gain", "number", low=0.0, high=99999.0, example=0.0),
        Field("hours-per-week", "number", nullable=True, low=1.0, high=99.0, example=40.0),
        Field("workclass", "category", nullable=True, levels=("Private", "State"), example="Private"),
        Field("education", "category", levels=("HS-grad", "Masters"), outside="refuse", example="HS-grad"),
        Field("married", "boolean", example=True),
        Field("veteran", "boolean", nullable=True),
        Field("interviewed", "date", low="1994-01-01", high="1995-12-31", example="1994-06-15"),
        Field("last seen", "date", low="1994-01-01T08:00:00", high="1995-12-31", example="1994-06-15T12:30:05"),
        Field("measured", "date", low="1994-01-01", high="1995-12-31", example="1994-06-15T12:30:05.123456"),
        Field("remark", "text", nullable=True, example="none"),
    ),
    BINARY,
)
UGLY = Contract(
    (
        Field('<b>bold</b> & "quoted"', "number", low=-1.5, high=1e-7, example=0.0, description="<i>help</i> & co"),
        Field(
            "naïve – 年齢 🎉 it's", "category", levels=("<script>x</script>", " x", ""), example="<script>x</script>"
        ),
        Field("__proto__", "integer", low=0, high=5, example=3),
        Field("7", "integer", low=0, high=5, example=4),
        Field("$(id) `id` \\", "text", example='it\'s $HOME \\ "x"'),
        Field("no_space_" * 12, "text", example="x" * 80),
    ),
    Output("multiclass", "<em>species</em>", ("</script>", "it's", '"<b>"')),
)
# Swagger UI itself loses a field of the name __proto__; our page does not
TAME = Contract(tuple(f for f in UGLY.fields if f.name != "__proto__"), UGLY.output)
PRICE = Contract(
    (Field("area", "number", low=12.0, high=400.0, example=82.5),), Output("regression", "price", unit="€")
)
TWELVE = Contract((infer_field("petals", [3, 5, 8]),), Output("multiclass", "month", tuple(range(1, 13))))
KINDS = ("integer", "number", "boolean", "category")
FORTY = Contract(
    tuple(
        Field(
            f"measure {i}",
            KINDS[i % 4],
            i % 5 == 0,
            levels=("a", "b") if i % 4 == 3 else None,
            example=(3, 2.5, True, "a")[i % 4],
        )
        for i in range(40)
    ),
    Output("binary", "good", (False, True), True),
)
METRICS = {
    "rows": 300,
    "roc_auc": 0.9274,
    "roc_auc_low": 0.9211,
    "roc_auc_high": 0.9331,
    "baseline_roc_auc": 0.5,
    "accuracy": 0.87,
}
CARD = (
    "# Card of mixed\n\n| field | kind |\n|---|---|\n| age | integer |\n\n<b>bold</b>\n\n![Slices](plots/slices.png)\n"
)
MONTHS = tuple(n / 78 for n in (1, 2, 12, 4, 5, 6, 7, 8, 9, 10, 11, 3))
UNLIKELY = (1.0 - 4e-5, 4e-5, 0.0)


def constant(*scored):
    return lambda rows: [Scored(*scored) for _ in rows]


def drawn():
    "A small PNG"
    Image.new("RGB", (40, 20), "white").save(data := BytesIO(), "png")
    return data.getvalue()


def fitted():
    "A pipeline that was really fitted, with its contract"
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    people = pd.DataFrame(
        {
            "age": [22, 25, 38, 41, 52, 60] * 5,
            "work class": ["State", "Self", "Private"] * 10,
            "hours-per-week": [20.0, 40.0, 50.0] * 10,
        }
    )
    columns = make_column_transformer(
        (StandardScaler(), ["age", "hours-per-week"]), (OneHotEncoder(handle_unknown="ignore"), ["work class"])
    )
    pipeline = make_pipeline(columns, LogisticRegression()).fit(people, ["no", "no", "yes", "no", "yes", "yes"] * 5)
    fields = amend(tuple(infer_field(name, people[name].tolist()) for name in people), {"age": {"high": 120}})
    return pipeline, Contract(fields, Output("binary", "rich", ("no", "yes"), "yes"))


@pytest.fixture(scope="session")
def models(make_model):
    pipeline, contract = fitted()
    files = {"model_card.md": CARD.encode(), "plots/slices.png": drawn(), "plots/roc.png": drawn()}
    return {
        "mixed": make_model("mixed", MIXED, constant(1.0, (0.2134, 0.7866)), files, METRICS),
        "ugly": make_model("ugly", UGLY, constant(0.0, UNLIKELY)),
        "tame": make_model("tame", TAME, constant(0.0, UNLIKELY)),
        "price": make_model("price", PRICE, constant(207912.53)),
        "twelve": make_model("twelve", TWELVE, constant(2.0, MONTHS)),
        "forty": make_model("forty", FORTY, constant(1.0, (0.25, 0.75))),
        "votes": make_model("votes", TWELVE, constant(11.0)),
        "fitted": make_model("fitted", contract, sklearn_engine(pipeline, contract)),
    }


NAMES = ("mixed", "ugly", "price", "twelve", "forty", "votes", "fitted")


@pytest.fixture
def visit(page, serve, models):
    "Opens a page of a model"

    def go(name, path="/"):
        page.goto(serve(models[name])[0] + path)
        return page

    return go


def predict(page):
    "Press the button; gives what was sent and what came back"
    with page.expect_response("**/predict") as caught:
        page.get_by_role("button", name="Predict").click()
    expect(page.locator("#form[aria-busy]")).to_have_count(0)
    return caught.value.request.post_data, caught.value.json()


def control(page, name):
    return page.locator("#fields").get_by_label(name, exact=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_answered_as_it_stands(visit, models, name):
    page = visit(name)
    sent, told = predict(page)
    row = example(models[name].contract)
    if name == "mixed":
        row["last seen"] = "1994-06-15T12:30:05"
    assert json.loads(sent) == row
    label = told.get("label", "207,913 €" if "value" in told else None)
    shown = label if isinstance(label, str) else json.dumps(label)
    expect(page.locator("#headline .label")).to_have_text(shown)
    assert len(json.loads(page.locator("details pre").text_content())["id"]) == 32
    expect(page.locator("details pre")).to_be_hidden()
    page.get_by_text("Response as JSON").click()
    expect(page.locator("details pre")).to_be_visible()


def test_every_field_has_a_name_a_description_and_its_example(visit):
    page = visit("mixed")
    for field in MIXED.fields:
        expect(control(page, field.name)).to_have_accessible_name(field.name)
    described = {
        "age": "Age in years · 17 to 90",
        "hours-per-week": "usually 1 to 99 · can be left empty",
        "last seen": "usually 1994-01-01 08:00:00 to 1995-12-31",
        "education": "",
    }
    for name, words in described.items():
        expect(control(page, name)).to_have_accessible_description(words)
    kinds = {
        name: control(page, name).get_attribute("type")
        for name in ("age", "interviewed", "last seen", "measured", "remark")
    }
    assert kinds == {
        "age": "number",
        "interviewed": "date",
        "last seen": "datetime-local",
        "measured": "text",
        "remark": "text",
    }
    assert control(page, "veteran").locator("option").all_text_contents() == ["not known", "yes", "no"]
    assert control(page, "education").locator("option").all_text_contents() == ["HS-grad", "Masters"]
    assert control(page, "workclass").locator("option").all_text_contents() == [
        "not known",
        "Private",
        "State",
        "another value …",
    ]
    assert [control(page, "age").get_attribute(bound) for bound in ("min", "max", "step")] == ["17", "90", "1"]


def test_what_is_changed_is_sent(visit):
    page = visit("mixed")
    control(page, "age").fill("90")
    control(page, "capital gain").fill("1e-7")
    control(page, "hours-per-week").fill("")
    control(page, "workclass").select_option("not known")
    control(page, "education").select_option("Masters")
    control(page, "married").select_option("no")
    control(page, "veteran").select_option("yes")
    control(page, "interviewed").fill("1995-01-31")
    control(page, "last seen").fill("1995-01-31T07:08")
    control(page, "remark").fill("")
    sent, told = predict(page)
    changed = json.loads(sent)
    assert changed.pop("measured") == "1994-06-15T12:30:05.123456"
    assert changed == {
        "age": 90,
        "capital gain": 1e-7,
        "hours-per-week": None,
        "workclass": None,
        "education": "Masters",
        "married": False,
        "veteran": True,
        "interviewed": "1995-01-31",
        "last seen": "1995-01-31T07:08",
        "remark": None,
    }
    assert told["warnings"] == []


def test_a_number_is_sent_as_it_was_typed(visit, heard):
    heard.expected = ("Failed to load resource",)
    page = visit("twelve")
    control(page, "petals").fill("9007199254740993")  # 2^53 + 1, which a double turns into 2^53
    sent, told = predict(page)
    assert "9007199254740993" in sent and told["error"] == "invalid_rows"
    control(page, "petals").fill("007")
    assert json.loads(predict(page)[0]) == {"petals": 7}


def test_values_unlike_the_training_data_are_answered_with_a_warning_at_the_field(visit):
    page = visit("mixed")
    control(page, "hours-per-week").fill("120")
    control(page, "workclass").select_option("another value …")
    expect(page.get_by_label("workclass: another value")).to_be_focused()
    page.get_by_label("workclass: another value").fill("Astronaut")
    sent, told = predict(page)
    assert json.loads(sent)["workclass"] == "Astronaut" and len(told["warnings"]) == 2
    expect(control(page, "hours-per-week")).to_have_accessible_description(
        "usually 1 to 99 · can be left empty hours-per-week lies outside 1.0 to 99.0"
    )
    expect(page.get_by_role("status").filter(has_text="income")).to_contain_text("with 2 warnings")
    page.get_by_role("link", name="workclass is not one of the 2 known levels").click()
    expect(control(page, "workclass")).to_be_focused()


def test_mistakes_are_shown_at_their_fields_and_the_first_gets_the_focus(visit, heard):
    heard.expected = ("Failed to load resource",)
    page = visit("mixed")
    control(page, "interviewed").fill("")
    control(page, "age").fill("17.5")
    control(page, "capital gain").press_sequentially("e")  # half a number: 0e
    _, told = predict(page)
    assert {f["field"] for f in told["fields"]} == {"age", "capital gain", "interviewed"}
    expect(page.get_by_role("alert")).to_have_text("3 fields need other values.")
    expect(control(page, "age")).to_be_focused()
    for name, words in (
        ("age", "whole number, not a fraction"),
        ("capital gain", "number, not text"),
        ("interviewed", "is missing"),
    ):
        expect(control(page, name)).to_have_attribute("aria-invalid", "true")
        expect(control(page, name)).to_have_accessible_description(re.compile(words))
    control(page, "age").fill("17")
    expect(control(page, "age")).not_to_have_attribute("aria-invalid", "true")
    expect(control(page, "age")).to_have_accessible_description("Age in years · 17 to 90")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "The service cannot be reached; check the connection and try again."),
        ((502, "<h1>Bad gateway</h1>"), "The service answered with status 502; try again in a moment."),
        (
            (503, json.dumps({"error": "too_busy", "message": "the service is <b>busy</b>", "fields": []})),
            "the service is <b>busy</b>",
        ),
        (
            (
                422,
                json.dumps(
                    {
                        "error": "invalid_rows",
                        "message": "x",
                        "fields": [{"field": "old", "message": "'old' is no field", "row": None}],
                    }
                ),
            ),
            "'old' is no field",
        ),
    ],
    ids=["no network", "a proxy's page", "busy", "another contract"],
)
def test_trouble_is_one_sentence_and_the_next_try_works(visit, heard, answer, said):
    heard.expected = ("Failed to load resource",)
    page = visit("price")
    handler = (
        (lambda route: route.abort())
        if answer is None
        else lambda route: route.fulfill(status=answer[0], body=answer[1])
    )
    page.route("**/predict", handler)
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_role("alert")).to_have_text(said)
    page.unroute("**/predict")
    predict(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("#headline .label")).to_have_text("207,913 €")


def test_each_class_has_a_bar_with_its_number_the_likeliest_first(visit):
    page = visit("twelve")
    predict(page)
    meters = page.get_by_role("meter")
    assert meters.count() == 12
    names = [meters.nth(i).get_attribute("aria-label") for i in range(12)]
    assert names == ["3", "11", "10", "9", "8", "7", "6", "5", "4", "12", "2", "1"]
    assert [float(meters.nth(i).get_attribute("aria-valuenow")) for i in range(12)] == sorted(MONTHS, reverse=True)
    expect(page.locator(".bars li").first).to_have_text("315.4 %")
    widths = [
        page.locator(".fill").nth(i).bounding_box()["width"] / meters.nth(i).bounding_box()["width"] for i in range(12)
    ]
    assert widths == pytest.approx(sorted(MONTHS, reverse=True), abs=0.01)


def test_a_probability_that_is_not_quite_certain_is_not_called_so(visit):
    page = visit("ugly")
    predict(page)
    assert page.locator(".percent").all_text_contents() == [">99.9 %", "<0.1 %", "0.0 %"]


def test_a_model_without_probabilities_has_no_bars(visit):
    page = visit("votes")
    predict(page)
    expect(page.locator("#headline .label")).to_have_text("12")
    expect(page.get_by_role("meter")).to_have_count(0)


def test_ugly_names_are_shown_as_they_are(visit):
    page = visit("ugly")
    assert page.locator("#fields label").all_text_contents() == list(UGLY.names)
    expect(page.get_by_text('Predicts <em>species</em>: </script>, it\'s or "<b>".')).to_be_visible()
    options = control(page, UGLY.names[1]).locator("option").all_text_contents()
    assert options == ["<script>x</script>", "“ x”", "“”", "another value …"]
    control(page, UGLY.names[1]).select_option("“”")
    sent, _ = predict(page)
    assert json.loads(sent) == example(UGLY) | {UGLY.names[1]: ""}
    assert sorted(page.locator(".bars .class").all_text_contents()) == sorted(UGLY.output.classes)
    assert page.locator("main :is(b, em, i, script)").count() == 0


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("name", ["ugly", "fitted"])
def test_the_command_asks_the_same(visit, models, name):
    page = visit(name)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    field = models[name].contract.fields[0].name
    control(page, field).fill("31")
    _, told = predict(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert "31" in command
    answered = json.loads(subprocess.run(["sh", "-c", command], capture_output=True, timeout=20, check=True).stdout)
    assert told.pop("id") != answered.pop("id") and answered == told


def test_without_a_clipboard_the_command_is_selected(visit):
    page = visit("price")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Selected: now press Ctrl+C")).to_be_visible()
    assert page.evaluate("String(getSelection())") == page.locator("#curl").text_content()


def test_an_answer_to_another_row_says_so_and_starting_over_brings_the_example_back(visit):
    page = visit("mixed")
    changed = page.get_by_text("The row has changed since; predict again.")
    expect(changed).to_be_hidden()
    predict(page)
    control(page, "age").fill("50")
    control(page, "workclass").select_option("another value …")
    expect(changed).to_be_visible()
    page.get_by_role("button", name="Start over").click()
    expect(changed).to_be_hidden()
    expect(page.locator("#headline .label")).to_have_count(0)
    expect(page.get_by_label("workclass: another value")).to_be_hidden()
    assert json.loads(predict(page)[0])["age"] == 37


@pytest.fixture
def held(visit):
    "A page whose requests wait until they are let go"

    def go(name):
        page, waiting = visit(name), []
        page.route("**/predict", lambda route: waiting.append(route))
        with page.expect_request("**/predict"):
            page.get_by_role("button", name="Predict").click()
        expect(page.locator("#form[aria-busy]")).to_have_count(1)
        return page, waiting

    return go


def test_an_answer_that_comes_after_a_change_says_so(held):
    page, waiting = held("mixed")
    control(page, "age").fill("50")
    waiting[0].continue_()
    expect(page.locator("#headline .label")).to_have_text(">50K")
    expect(page.get_by_text("The row has changed since; predict again.")).to_be_visible()
    page.unroute("**/predict")
    predict(page)
    expect(page.get_by_text("The row has changed since; predict again.")).to_be_hidden()


def test_an_answer_that_comes_after_starting_over_is_not_shown(held):
    page, waiting = held("mixed")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator("#form[aria-busy]")).to_have_count(0)
    with page.expect_response("**/predict"):
        waiting[0].continue_()
    page.wait_for_timeout(200)
    expect(page.locator("#headline")).to_have_text("It will be shown here.")
    page.unroute("**/predict")
    predict(page)
    expect(page.locator("#headline .label")).to_have_text(">50K")


KEY = "a-key-that-is-known-here"


@pytest.fixture
def closed(serve, models, page):
    "The page of a service that asks for a key"
    address, service = serve(models["price"])
    opened, service.access = service.access, Access({sha256(KEY.encode()).hexdigest(): frozenset({"predict"})})
    page.goto(address)
    yield page
    service.access = opened


def test_a_key_is_asked_for_where_it_is_typed_and_enter_sends_it(closed, heard):
    heard.expected = ("Failed to load resource",)
    told = {"error": "no_key", "message": "send it as the header Authorization: Bearer <key>", "fields": []}
    closed.route("**/predict", lambda route: route.fulfill(status=401, json=told))
    predict(closed)
    expect(closed.get_by_role("alert")).to_have_text("Predictions need a key that is known here; type it into Key.")
    expect(closed.get_by_label("Key", exact=True)).to_be_focused()
    closed.unroute("**/predict")
    closed.keyboard.type(KEY)
    with closed.expect_request("**/predict") as caught:
        closed.keyboard.press("Enter")
    assert caught.value.headers["authorization"] == f"Bearer {KEY}"
    expect(closed.locator("#headline .label")).to_have_text("207,913 €")
    closed.get_by_role("button", name="Start over").click()
    expect(closed.get_by_label("Key", exact=True)).to_have_value(KEY)


def test_a_key_that_cannot_be_one_is_not_sent(closed, heard):
    closed.get_by_label("Key", exact=True).fill("schlüssel–schlüssel")
    closed.get_by_role("button", name="Predict").click()
    expect(closed.get_by_role("alert")).to_have_text("The key holds characters that no key has; type it again.")
    expect(closed.get_by_label("Key", exact=True)).to_be_focused()
    assert not [url for url in heard.requests if url.endswith("/predict")]


def test_the_page_tells_when_another_model_answers(serve, make_model, page):
    newer = make_model("swap", PRICE, constant(2.0), version="2.0.0")
    older = make_model("swap", PRICE, constant(1.0), version="1.0.0")
    address, service = serve(older)
    page.goto(address)
    service.model = newer
    predict(page)
    expect(page.get_by_text("This answer is from swap 2.0.0; reload the page to see that model.")).to_be_visible()
    page.reload()
    expect(page.locator(".version")).to_have_text("2.0.0")


def test_the_model_is_described(visit):
    page = visit("mixed")
    facts = page.locator("#facts > div").all_inner_texts()
    assert [f.split("\n") for f in facts][:4] == [
        ["Model", "mixed"],
        ["Version", "1.0.0"],
        ["Code", facts[2].split("\n")[1]],
        ["Engine", "sklearn"],
    ]
    rows = page.get_by_role("row").all_inner_texts()
    assert [r.split("\t") for r in rows] == [
        ["metric", "value", "95 % interval", "baseline"],
        ["ROC AUC", "0.9274", "0.9211 to 0.9331", "0.5"],
        ["accuracy", "0.87", "", ""],
    ]
    assert page.locator("figcaption").all_text_contents() == ["slices", "roc"]
    plot = page.get_by_role("img", name="Plot: slices")
    plot.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('figure img').naturalWidth === 40")


@pytest.mark.parametrize("path", ["/", "/model/card"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_plot_is_as_light_as_the_page_around_it(visit, page, scheme, path):
    page.emulate_media(color_scheme=scheme)
    page = visit("mixed", path)
    plot = page.locator("figure img, .card img").first
    plot.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('figure img, .card img').naturalWidth === 40")
    with Image.open(BytesIO(plot.screenshot())) as seen:
        middle = seen.convert("L").getpixel((seen.width // 2, seen.height // 2))
    assert middle > 200 if scheme == "light" else middle < 60


def test_the_card_is_a_page_and_its_html_is_text(visit):
    page = visit("mixed")
    page.get_by_role("link", name="Model card").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Card of mixed")
    expect(page.get_by_text("<b>bold</b>")).to_be_visible()
    expect(page.get_by_role("link", name="Model card")).to_have_attribute("aria-current", "page")
    page.wait_for_function("document.querySelector('article img').naturalWidth === 40")
    page.get_by_role("link", name="Predict").click()
    predict(page)


def test_it_can_be_used_with_the_keyboard_alone(visit):
    page = visit("mixed")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(control(page, "age")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#headline .label")).to_have_text(">50K")
    reached = []
    for _ in range(40):  # the parts of a date are stops of their own
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent.trim()"
        )
        if not reached or reached[-1] != name:
            reached.append(name)
    order = [*MIXED.names[1:], "Predict", "Start over", "Response as JSON"]
    assert reached[: len(order)] == order and "Copy" in reached


SMALL = (
    "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility() && e.offsetHeight < 44)"
)


@pytest.mark.parametrize("name", ["mixed", "ugly", "twelve", "forty"])
def test_nothing_sticks_out_of_a_phone(visit, page, name):
    page.set_viewport_size({"width": 375, "height": 700})
    visit(name)
    predict(page)
    expect(page.locator("#headline .label")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate(f"{SMALL}.map(e => e.outerHTML)") == []
    page.set_viewport_size({"width": 320, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") == 320


CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return (channels(colour)[3] ?? 1) > 0 ? colour : ground(e.parentElement);
  };
  const found = {};
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.matches('script, noscript, option')) continue;
    const [a, b] = [luminance(getComputedStyle(e).color), luminance(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`;
    found[name] = ratio;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit, heard, page, scheme):
    heard.expected = ("Failed to load resource",)
    page.emulate_media(color_scheme=scheme)
    visit("mixed")
    control(page, "hours-per-week").fill("120")
    states = []
    predict(page)
    states.append(page.evaluate(CONTRAST))
    control(page, "age").fill("5")
    states.append(page.evaluate(CONTRAST))
    predict(page)
    states.append(page.evaluate(CONTRAST))
    visit("mixed", "/model/card")
    states.append(page.evaluate(CONTRAST))
    assert [len(s) > 9 for s in states] == [True] * 4
    assert {name: ratio for state in states for name, ratio in state.items() if ratio < 4.5} == {}
    grounds = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, grounds[4:-1].split(","))) < 384) == (scheme == "dark")


@pytest.mark.parametrize("name", ["mixed", "tame"])
def test_the_api_can_be_tried_out_with_the_example(visit, models, name):
    page = visit(name, "/docs")
    block = page.locator(".opblock-post", has_text="/predict").first
    block.get_by_role("button").first.click()
    page.get_by_role("button", name="Execute").click()
    answered = page.locator(".live-responses-table .response").first
    expect(answered.locator(".response-col_status")).to_contain_text("200")
    told = json.loads(answered.locator("pre.microlight, .highlight-code pre").first.inner_text())
    assert (
        told["model"] == name and told["label"] == models[name].contract.output.classes[{"mixed": 1, "tame": 0}[name]]
    )
    page.get_by_role("button", name="Schemas").click()
    page.wait_for_load_state("networkidle")


def test_a_second_visit_fetches_no_file_again(visit):
    page = visit("price")
    page.goto(page.url)
    page.wait_for_load_state("networkidle")
    fetched = (
        "performance.getEntriesByType('resource').filter(e => e.name.includes('/static/')).map(e => e.transferSize)"
    )
    sizes = page.evaluate(fetched)
    assert len(sizes) >= 3 and set(sizes) == {0}
