"""The viewer in a real browser: attacks stay text, formulas are set, keys, themes, a phone, accessibility."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from qednano.evals.human import grades_path, read_grades
from tests.view.artifact import write_grader_run, write_run, write_training_run

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a viewer of its own process, as `qednano view` starts it, and its two runs."""
    root = tmp_path_factory.mktemp("served")
    size = {"problems": 12, "samples": 2, "length": 40_000}
    first = write_run(root, "first", models={"qed-nano": 0.8, "base": 0.4}, **size)
    second = write_run(root, "second", models={"qed-sft": 0.6}, seed=7, **size)
    write_grader_run(root, "judges")
    write_training_run(root, "qed-sft")
    command = [sys.executable, "-m", "qednano.cli", "view", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0].rstrip("/"), first, second
        finally:
            process.terminate()


@pytest.fixture
def screen(browser):
    """A page that remembers what the browser complained about; a complaint fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    yield page
    context.close()
    assert complaints == []


def other(run: Path, name: str) -> Path:
    """The folder of another run of the same root."""
    (found,) = run.parents[1].glob(f"*/{name}-*")
    return found


@pytest.fixture
def paths(served):
    """Every page of the viewer by its name."""
    address, first, second = served
    sample = f"{address}/runs/{first.name}/sample?model=qed-nano"
    pair = f"a={first.name}~qed-nano&b={second.name}~qed-sft"
    return {
        "runs": address,
        "run": f"{address}/runs/{first.name}",
        "problem": f"{address}/runs/{first.name}/problem?id=imo-0001",
        "sample": f"{sample}&problem=imo-0000&index=0",
        "attack": f"{sample}&problem=imo-0001&index=1&thinking=0&call=1&raw=0",
        "compare": f"{address}/compare?{pair}",
        "pair": f"{address}/compare/problem?{pair}&problem=imo-0001",
        "nothing": f"{address}/compare",
        "graders": f"{address}/runs/{other(first, 'judges').name}",
        "curve": f"{address}/runs/{other(first, 'qed-sft').name}",
    }


def test_attacks_in_proofs_do_not_run(screen, paths):
    requests: list[str] = []
    screen.on("request", lambda request: requests.append(request.url))
    for name in ("attack", "pair"):
        screen.goto(f"{paths[name]}&a_index=1")
        screen.locator(".math.broken").first.wait_for()
        screen.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert screen.evaluate("window.hacked") is None
        assert screen.locator("img, iframe, main script").count() == 0
        assert screen.locator("a[href^='javascript']").count() == 0
    own = paths["runs"]
    assert all(url.startswith((own, "data:")) for url in requests)


def test_formulas_are_set_and_broken_ones_are_shown_as_written(screen, paths):
    screen.goto(paths["attack"])
    screen.locator(".math.set .katex").first.wait_for(state="attached")
    broken = screen.locator("#proof .math.broken").first
    assert broken.inner_text() == r"\frac{1}{2"
    assert "KaTeX" in broken.get_attribute("title")


def test_the_keyboard_goes_everywhere(screen, paths):
    screen.goto(paths["runs"])
    screen.keyboard.press("j")
    screen.keyboard.press("j")
    screen.keyboard.press("k")
    name = screen.evaluate("document.activeElement.textContent")
    screen.keyboard.press("Enter")
    screen.wait_for_url("**/runs/*")
    assert screen.locator("h1").inner_text() == name
    screen.goto(paths["run"])
    screen.keyboard.press("j")
    screen.keyboard.press("Enter")
    screen.wait_for_url("**/problem?id=imo-0000")
    screen.keyboard.press("n")
    screen.wait_for_url("**/problem?id=imo-0001")
    screen.keyboard.press("j")
    screen.keyboard.press("Enter")
    screen.wait_for_url("**/sample?*")
    screen.keyboard.press("r")
    screen.get_by_text("Let me try").first.wait_for()
    screen.keyboard.press("r")
    screen.get_by_text("Let me try").first.wait_for(state="detached")
    screen.keyboard.press("c")
    screen.keyboard.press("Enter")
    screen.locator("#call").wait_for()
    assert "call=0" in screen.url, "an opened call has its own address"
    screen.keyboard.press("?")
    assert screen.locator("dialog").is_visible()
    screen.keyboard.press("Escape")
    screen.keyboard.press("u")
    screen.wait_for_url("**/problem?id=imo-0001")
    screen.keyboard.press("u")
    screen.wait_for_url("**/runs/*")
    screen.keyboard.press("/")
    assert screen.evaluate("document.activeElement.name") == "q"


def test_words_filter_the_table_while_they_are_typed(screen, paths):
    screen.goto(paths["run"])
    screen.keyboard.press("/")
    screen.keyboard.type("unknowncommand")
    expect(screen.locator("[data-row]")).to_have_count(1)
    assert "q=unknowncommand" in screen.url
    screen.reload()
    assert screen.locator("[data-row]").count() == 1, "the address holds the filter"
    screen.locator("[data-row] .math.set").first.wait_for(state="attached")


def test_a_person_grades_with_the_keyboard_alone(screen, paths, served):
    screen.goto(paths["sample"])
    screen.keyboard.press("g")
    screen.keyboard.press("5")
    screen.keyboard.press("Tab")
    screen.keyboard.type("Case $k = 0$ </textarea><script>window.hacked = 3</script> is missing")
    screen.keyboard.press("Tab")
    screen.keyboard.type("Ada")
    screen.keyboard.press("Control+Enter")
    screen.locator(".given").wait_for()
    assert screen.evaluate("window.hacked") is None
    (grade,) = read_grades(grades_path(served[1] / "artifact"))
    assert (grade.score, grade.grader, grade.problem) == (5, "Ada", "imo-0000")
    screen.get_by_role("button", name="Edit").click()
    assert screen.locator("input[name=score]:checked").get_attribute("value") == "5"
    screen.keyboard.press("7")
    screen.get_by_role("button", name="Save the grade").click()
    screen.locator(".given .score.s7").wait_for()
    screen.goto(paths["attack"])
    assert screen.locator(".give input[name=grader]").input_value() == "Ada", "the name is remembered"
    screen.goto(paths["sample"])
    screen.get_by_role("button", name="Remove").click()
    screen.locator(".given").wait_for(state="detached")
    assert read_grades(grades_path(served[1] / "artifact")) == []


def test_two_ticks_compare_two_runs(screen, paths):
    screen.goto(paths["runs"])
    button = screen.locator("[data-compare]")
    assert button.is_disabled()
    for box in screen.locator("[data-side]").all():
        box.check()
    button.click()
    screen.wait_for_url("**/compare?a=*")
    screen.get_by_text("Paired difference").wait_for()


def test_what_graders_are_worth_is_drawn_and_their_proofs_stay_text(screen, paths, served):
    for page in (paths["graders"], (other(served[1], "judges") / "artifact" / "report.html").as_uri()):
        screen.goto(page)
        assert screen.evaluate("window.hacked") is None
        assert screen.locator("svg.chart g").count() == 2 and screen.locator("table.matrix").count() == 2
        assert screen.locator("b, img, main script").count() == 0, "a grader's name is text, too"
        low, high = (screen.locator("svg.chart g").first.locator("circle").nth(n).bounding_box()["y"] for n in (0, -1))
        assert high < low, "what it graded higher people scored higher"


def test_the_curve_of_checkpoints_is_drawn_and_its_best_is_marked(screen, paths, served):
    page = other(served[1], "qed-sft") / "evaluations" / "curve.html"
    for address in (paths["curve"], page.as_uri()):
        screen.goto(address)
        assert screen.locator("svg.chart circle").count() == 8
        best = screen.locator("tr", has=screen.get_by_text("best", exact=True))
        assert best.locator("th, td").all_inner_texts()[:2] == ["proofs", "80"]


def test_dark_mode_follows_the_system_and_the_person(browser, paths):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    ground = "getComputedStyle(document.body).backgroundColor"
    page.goto(paths["runs"])
    dark = page.evaluate(ground)
    page.keyboard.press("t")
    light = page.evaluate(ground)
    assert (dark, light) == ("rgb(15, 19, 23)", "rgb(246, 247, 248)")
    page.reload()
    assert page.evaluate(ground) == light, "the choice is kept, and there at once"
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark
    context.close()


def test_pages_fit_a_phone(browser, paths):
    context = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = context.new_page()
    for name, path in paths.items():
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    context.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core's script, from npm through its client, kept in this machine's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qednano" / "npm"
    kept = cache / f"{AXE.replace('@', '-')}.js"
    if not kept.is_file():
        if shutil.which("npm") is None:
            pytest.skip("needs npm on this machine, to fetch axe-core")
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "pack", AXE, "--silent"], cwd=cache, capture_output=True, text=True, timeout=120)
        if done.returncode:
            pytest.skip(f"needs an npm registry that has {AXE}: {done.stderr.strip()[-200:]}")
        package = cache / done.stdout.split()[-1]
        with tarfile.open(package) as archive:
            script = archive.extractfile("package/axe.min.js")
            assert script is not None
            kept.write_bytes(script.read())
        package.unlink()
    return kept.read_text()


@pytest.mark.parametrize(("scheme", "rules"), [("light", "undefined"), ("dark", "['color-contrast']")])
def test_no_page_has_a_serious_fault_of_accessibility(browser, paths, served, axe, scheme, rules):
    context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1200, "height": 900})
    page = context.new_page()
    files = {
        "report": served[1] / "artifact" / "report.html",
        "graders' report": other(served[1], "judges") / "artifact" / "report.html",
        "curve's page": other(served[1], "qed-sft") / "evaluations" / "curve.html",
    }
    pages = paths | {name: path.as_uri() for name, path in files.items()}
    found = []
    for name, path in pages.items():
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        page.evaluate(axe)
        result = page.evaluate(f"axe.run(document, {{resultTypes: ['violations'], runOnly: {rules}}})")
        found += [
            f"{name}: {fault['id']} ({fault['impact']}): {fault['nodes'][0]['html'][:160]}"
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
    context.close()
    assert found == []


def test_nobody_but_this_machine_can_reach_it(served):
    request = urllib.request.Request(served[0], headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403


def test_the_command_refuses_an_open_address():
    command = [sys.executable, "-m", "qednano.cli", "view", "--host", "0.0.0.0", "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and "no log-in" in done.stderr and done.stderr.count("\n") == 1
