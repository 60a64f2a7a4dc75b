"""The page on a run: written from a real folder, and looked at in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import chromium
from run_folder import HOSTILE, make_run_folder, read_manifest, write_manifest, write_record

from galprep_dask.errors import ReportError
from galprep_dask.pipeline import layout
from galprep_dask.pipeline.report import write_page, write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, with its report."""
    folder = make_run_folder(tmp_path_factory.mktemp("run"))
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture
def light(run, tmp_path):
    """A copy without what figures are drawn from, to be damaged."""
    heavy = shutil.ignore_patterns("*.npz", "psf.fits", "stars.ecsv", "report.html")
    return shutil.copytree(run, tmp_path / "light", ignore=heavy)


class Page(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.scripts, self._script = [], [], {}, None
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id", "")
            self.scripts[self._script] = ""
        if tag == "style":
            self._script = "style"
            self.scripts["style"] = ""

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts[self._script] += data

    @property
    def data(self):
        return json.loads(self.scripts["data"])


# The file ----------------------------------------------------------------------------------------------------


def test_same_folder_gives_the_same_bytes_wherever_it_lies(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("report.html"))
    page = write_report(copy).read_bytes()
    assert page == (run / "report.html").read_bytes()
    assert str(tmp_path).encode() not in page
    assert str(run).encode() not in page


def test_page_says_what_to_trust(run):
    page = Page(run / "report.html")
    assert "2 of 3 bands prepared" in page.text
    assert "z The band failed: '/data/z.fits' is <truncated>." in page.text
    assert "K There is no PSF: no PSF is fitted" in page.text
    assert "r Sky, sigma and PSF are as they should be." in page.text
    assert "There is no preview.npz." in page.text  # of the band that failed
    figures = [attrs for tag, attrs in page.elements if attrs.get("class") == "figure"]
    assert [attrs["alt"] for attrs in figures] == [
        f"{name} of band {band}"
        for band, names in {
            "r": ["Sky", "Sources and sigma", "Star cuts", "Stellar locus", "PSF", "PSF: what it leaves of its stars"],
        }.items()
        for name in names
    ]
    record = json.loads(layout.band_record(run, "r").read_text())
    assert f"chi2, reserved stars {record['psf']['chi2_reserved']:.4g}" in page.text
    assert "fedcba9876543210" in page.text  # which file it was made from
    cut = record["stars"]["cuts"][2]
    assert f"{cut['name']} {cut['dropped']} {cut['left']}" in page.text


def test_table_holds_every_target_and_number(run):
    data, rows = Page(run / "report.html").data, read_manifest(run)
    cutouts = [row for row in rows if row["kind"] == "cutout"]
    assert data["name"] == list(dict.fromkeys(row["target"] for row in rows))
    assert data["bands"] == ["r", "K", "z"]
    assert data["flags"] == ["edge", "far_from_stars"]
    columns = {column["key"]: column for column in data["columns"]}
    assert list(columns) == ["ra", "dec", "redshift", "mag", "re", "q", "fwhm", "masked"]
    assert not columns["redshift"]["per_band"]
    assert columns["redshift"]["values"] == [round(0.1 + k / 50, 4) for k in range(12)]
    assert columns["mag"]["values"][0] == [row["mag"] for row in cutouts if row["band"] == "r"]
    assert columns["mag"]["values"][1][4] is None  # failed
    assert columns["mag"]["values"][2] == [None] * 12
    shares = [100 * row["masked"] for row in cutouts if row["band"] == "r"]
    rounding = 0.5 * 10.0 ** -columns["masked"]["decimals"]
    np.testing.assert_allclose(columns["masked"]["values"][0], shares, atol=rounding, rtol=1e-12)
    assert columns["masked"]["unit"] == "%"
    assert data["reason"][4] == "K: every pixel is masked; z: '/data/z.fits' is <truncated>."


def test_names_are_data(run):
    page = Page(run / "report.html")
    assert page.data["name"][: len(HOSTILE)] == HOSTILE
    for name in HOSTILE:
        assert re.sub(r"\s+", " ", name) in page.text
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert [attrs for attrs in scripts if attrs.get("type") != "application/json"] == [{}]
    images = [attrs.get("src", "data:") for tag, attrs in page.elements if tag == "img"]
    assert all(source.startswith("data:") for source in images)
    assert "49" not in page.data["name"][5]  # no template of ours fills in what a name asks for


# What is missing or damaged ----------------------------------------------------------------------------------


def test_no_run_is_one_clear_error(tmp_path):
    with pytest.raises(ReportError, match="there is no folder '.*nowhere'"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ReportError, match=r"has no manifest.ecsv: it is not the output folder of a run"):
        write_report(tmp_path)
    manifest = layout.manifest_file(tmp_path)
    manifest.write_text("# %ECSV 1.0\n# ---\n# datatype: [")
    with pytest.raises(ReportError, match=r"cannot read '.*manifest.ecsv'"):
        write_report(tmp_path)
    write_manifest(tmp_path, [{"name": "a", "ra": 1.0}])
    with pytest.raises(ReportError, match=r"has no column target, file_name, kind, band, status, but name, ra"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == [manifest]


def test_parts_that_are_missing_are_said(light):
    page = Page(write_report(light))
    for name in ("preview.npz", "stars.ecsv", "psf.fits", "psf_residuals.npz"):
        assert f"There is no {name}." in page.text
    shutil.rmtree(light / "bands")
    layout.run_record(light).unlink()
    page = Page(write_report(light))
    assert "0 of 3 bands prepared" in page.text
    assert "r There is no band.json: the band was not finished." in page.text


def test_manifest_alone_is_enough(tmp_path):
    write_manifest(tmp_path, [{"target": "a", "file_name": "a", "kind": "lyric", "band": "", "status": "skipped"}])
    page = Page(write_report(tmp_path))
    assert "The run has no bands." in page.text
    assert page.data["status"] == [page.data["statuses"].index("skipped")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "r", "sta', "r band.json cannot be read: Unterminated string"),
        ("[1, 2]", "r band.json holds no record, but a list."),
        ('{"status": "done", "sky": 3, "stars": {"cuts": [7]}}', "r band.json: sky is 3; expected a table."),
        ('{"status": "done", "stars": {"cuts": [7]}}', "r band.json: the cuts of the stars are no list of name"),
        ('{"status": "unfinished"}', "r The band is unfinished: run galprep run again."),
        ('{"status": "done", "psf": {"source": "fitted", "chi2_reserved": "<b>", "n_stars": null}}', "<b>"),
    ],
)
def test_damaged_record_of_a_band_is_named(light, text, said):
    layout.band_record(light, "r").write_text(text)
    page = Page(write_report(light))
    assert said in page.text
    assert len(page.data["name"]) == 12  # the rest is there


def test_missing_and_damaged_files_are_named(light):
    rows = [row for row in read_manifest(light) if row["kind"] == "cutout" and row["status"] == "done"]
    missing, damaged, outside = (light / row["path"] for row in (rows[0], rows[2], rows[4]))
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:3000])
    outside.rename(light.parent / "secret.fits")
    for row in rows:
        if light / row["path"] == outside:
            row["path"] = "../secret.fits"
    write_manifest(light, rows)
    layout.preview_file(light, "r").write_bytes(b"no arrays")
    layout.psf_file(light, "r").write_bytes(b"no FITS")
    written = write_page(light)
    told = [finding for finding in written.findings if finding.where.endswith(", r")]
    assert [finding.where for finding in told] == [f"{name}, r" for name in HOSTILE[:3]]
    assert told[0].text == f"{missing.name} is missing"
    assert told[1].text.startswith(f"{damaged.name} cannot be read: ")
    assert told[2].text == "../secret.fits lies outside of the folder of the run"
    page = Page(written.path)
    assert f"{HOSTILE[0]}, r {missing.name} is missing" in page.text
    assert "preview.npz cannot be drawn: " in page.text
    assert "Not drawn: " in page.text
    small = json.loads(page.scripts["small-0-0"])
    assert set(small["problem"]) == {"0", "1", "2"}
    assert small["image"][:3] == ["", "", ""]
    assert all(small["image"][3:])


def test_band_that_is_no_name_is_not_read(light):
    rows = read_manifest(light)
    rows[0]["band"] = "../../r"
    write_manifest(light, rows)
    assert "../../r This is no name of a band: nothing was read for it." in Page(write_report(light)).text


# In the browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture
def opened(browser):
    """Give a function that opens a page; whatever it asks for or complains of fails the test."""
    complaints, contexts = [], []

    def show(path, **options):
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: complaints.append(request.url) if _outside(request.url) else None)
        page.goto(path.resolve().as_uri())
        return page

    def _outside(url):
        return not url.startswith("data:") and not re.fullmatch(r"file:///.*/report\.html", url)

    show.complaints = complaints
    yield show
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(opened, run):
    return opened(run / "report.html")


def column(page, number):
    cells = f"#table tbody td:nth-child({number})"
    return page.eval_on_selector_all(cells, "cells => cells.map(cell => cell.innerText.trim())")


def test_page_opens_with_all_its_pictures(page, run):
    assert page.title() == "galprep run: 12 targets in r, K, z"
    assert column(page, 1) == HOSTILE + [f"J{number}" for number in range(6)]
    page.wait_for_function("[...document.querySelectorAll('#table img')].every(image => image.complete)")
    sides = page.eval_on_selector_all("#table img.picture", "images => images.map(image => image.naturalWidth)")
    assert sides == [81] * 23  # of two bands, but for the one that failed; no larger than the cutouts are
    masks = page.eval_on_selector_all("#table img.mask", "images => images.map(image => image.naturalWidth)")
    assert masks
    assert set(masks) == {81}
    assert page.locator("#table .thumb.none").count() == 13
    figure = page.locator("#band-0 img.figure").first
    figure.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#band-0 img.figure').naturalWidth > 1000")


def test_nothing_but_the_page_s_own_script_runs_and_nothing_is_fetched(opened, run):
    page = opened(run / "report.html")
    insert = "([tag, name, value]) => document.body.append(Object.assign(document.createElement(tag), {[name]: value}))"
    page.evaluate(insert, ["script", "textContent", "window.ran = true"])
    page.evaluate(insert, ["img", "src", "http://127.0.0.1:9/picture.png"])
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    refused = [complaint for complaint in opened.complaints if "Content Security Policy" in complaint]
    assert len(refused) == 2
    opened.complaints.clear()


def test_table_sorts(page):
    page.click("[data-sort=mag]")
    magnitudes = column(page, 7)
    assert magnitudes == sorted(magnitudes)
    assert page.get_attribute("th:has([data-sort=mag])", "aria-sort") == "ascending"
    page.click("[data-sort=mag]")
    assert column(page, 7) == magnitudes[::-1]
    assert page.get_attribute("th:has([data-sort=mag])", "aria-sort") == "descending"
    page.select_option("#band", label="K")  # where one is not known, and last whichever way
    assert column(page, 7)[-1] == "–"
    page.click("[data-sort=mag]")
    assert column(page, 7)[-1] == "–"
    page.click("[data-sort='@name']")
    names = page.evaluate("names => names.sort(new Intl.Collator(undefined, {numeric: true}).compare)", column(page, 1))
    assert column(page, 1) == names


def test_table_filters(page):
    def found(query):
        page.fill("#query", query)
        page.wait_for_timeout(200)
        return column(page, 1)

    assert found("galak") == ["No target is like that."]
    assert page.inner_text("#shown") == "none of 12"
    assert found("галак") == ["Галактика 🌌"]
    assert found("<SCRIPT>") == ["<script>alert(1)</script>"]
    assert found("every pixel") == [HOSTILE[4]]
    assert found("mag<21 re>=6") == ["J3", "J4", "J5"]
    assert found("mag<21 j4") == ["J4"]
    assert len(found("")) == 12
    page.select_option("#flag", label="far_from_stars")
    assert column(page, 1) == ["J1"]
    page.click("#overview .chip:has-text('edge')")
    assert column(page, 1) == [HOSTILE[0], HOSTILE[5], "J1", "J4"]
    page.select_option("#flag", "")
    page.select_option("#status", label="in part")
    assert page.inner_text("#shown") == "1–12 of 12"


def test_target_opens_with_numbers_and_files(page, run):
    page.click("#table tbody tr:nth-child(5) .name button")
    assert page.inner_text("#target-name") == HOSTILE[4]
    body = page.inner_text("#target-body")
    assert "every pixel is masked" in body
    links = page.eval_on_selector_all("#target-body a", "links => links.map(link => link.getAttribute('href'))")
    assert all((run / link).is_file() for link in links if link.endswith(".fits"))
    assert len(links) == 2
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#target-name") == HOSTILE[5]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#target-name") == HOSTILE[3]
    page.keyboard.press("Escape")
    assert not page.is_visible("#target")


def test_masks_gallery_and_bands(page):
    assert page.is_visible("#band-0")
    assert not page.is_visible("#band-1")
    page.click("#tab-2")
    assert page.is_visible("#band-2")
    assert not page.is_visible("#band-0")
    assert page.is_visible("#table img.mask >> nth=0")
    page.uncheck("#masks")
    assert not page.is_visible("#table img.mask >> nth=0")
    page.select_option("#view", "gallery")
    assert page.locator("#gallery .tileset").count() == 12
    assert page.locator("#table tbody tr").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_sees_all_of_it_and_can_read_it(opened, run, scheme):
    page = opened(run / "report.html", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    pairs = [("ink", "back"), ("ink", "card"), ("soft", "back"), ("soft", "card"), ("accent", "card")]
    pairs += [(level, back) for level in ("error", "warning", "ok") for back in (f"{level}-back", "card")]
    colours = page.evaluate(
        "names => names.map(name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim())",
        sorted({name for pair in pairs for name in pair}),
    )
    light = dict(zip(sorted({name for pair in pairs for name in pair}), map(luminance, colours), strict=True))
    for text, back in pairs:
        low, high = sorted((light[text], light[back]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)  # WCAG 2, level AA


def luminance(colour):
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_many_targets_are_shown_a_page_at_a_time(opened, tmp_path):
    count = 3000
    rows = [
        {"target": f"T{k}", "file_name": f"T{k}", "ra": k / 10, "dec": -1.5, "kind": "cutout", "band": "r",
         "mag": 30 - k / 100, "status": "failed" if k % 1000 == 999 else "done", "reason": ""}
        for k in range(count)
    ]  # fmt: skip
    write_manifest(tmp_path, rows)
    layout.band_folder(tmp_path, "r").mkdir(parents=True)
    write_record(tmp_path, "r", {"name": "r", "status": "done"})
    page = opened(write_report(tmp_path))
    assert column(page, 1)[:4] == ["T999", "T1999", "T2999", "T0"]  # failures first
    assert len(column(page, 1)) == 50
    assert page.inner_text("#shown") == "1–50 of 3\u202f000"
    page.click("[data-sort=mag]")
    page.fill("#page", "60")
    page.press("#page", "Enter")
    assert column(page, 1) == [f"T{k}" for k in range(49, -1, -1)]
    assert column(page, 5)[0] == "−1.50000"
    assert page.is_disabled("#next")
    page.click("#previous")
    assert column(page, 1)[-1] == "T50"
    page.click("#overview button[data-status='failed partly']")
    assert column(page, 1) == ["T2999", "T1999", "T999"]
