"""No release is signed on evidence that nobody signed. The commands that show such evidence say so."""

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline.audit.anchor import write_anchor
from ft_pipeline.cli import app
from ft_pipeline.copies.archive import writing_place
from ft_pipeline.copies.backup import back_up
from ft_pipeline.copies.places import open_place
from ft_pipeline.copies.push import push
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.release import manual_promotion, requests
from ft_pipeline.release.champion import current, history
from ft_pipeline.release.recorded_decision import decision_document
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.step import STEPS, BuildContext
from ft_pipeline.store import provenance
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import AssetPointers, current_artifact
from ft_pipeline.store.garbage import Garbage, remove_garbage
from ft_pipeline.store.journal import changing, replace_key, sign_content, sign_new_store
from ft_pipeline.store.signature_check import check_signatures
from ft_pipeline.store.spec import ArtifactReference, Spec
from ft_pipeline_tests.audit import attacks
from ft_pipeline_tests.audit.tampering import edit
from ft_pipeline_tests.release.material import READ, Material

SETTINGS = PromotionSettings(metric="loss", forgetting_margin=0.05, min_test_rows=20)


class Released(Material):
    """A project with two comparisons: one whose model is the champion, after another one, and a newer one with a better
    model."""

    def __init__(self, root: Path, *, signed: bool = True) -> None:
        root.mkdir()
        (root / "project.yaml").write_text("name: shop\n", encoding="utf-8")
        (root / "dagster_home").mkdir()
        if signed:
            sign_new_store(root / "data" / "store")
        (root / "data").mkdir(exist_ok=True)
        super().__init__(root / "data")
        self.root = root
        scores = None
        for loss in (2.6, 2.4, 2.0):
            champion = (current(self.store.root), scores) if scores else None
            scores = self.train(loss)
            self.compare(scores, champion)
            if loss > 2.0:
                self.move(force=True)
        self.put_document("decision", self.decision(), {"comparison": self.comparison})
        decision = current_artifact(self.store, "decision")
        assert decision is not None
        self.put_document("recommendation", {"reasons": []}, {"decision": decision, "comparison": self.comparison})

    @property
    def comparison(self) -> Artifact:
        found = current_artifact(self.store, "comparison")
        assert found is not None
        return found

    def decision(self) -> dict[str, Any]:
        champion = current(self.store.root)
        standing = champion and champion.sequence
        return decision_document(self.store, self.comparison, SETTINGS, standing, test_share=0.1, read=READ)

    def put_document(self, kind: str, document: Any, inputs: dict[str, Artifact]) -> None:
        config = {"promotion": SETTINGS.model_dump(mode="json"), "standing": 2, "test_share": 0.1, "read": READ}
        named = {name: artifact.reference for name, artifact in inputs.items()}
        draft = self.store.begin(Spec(kind, named, config))
        (draft.out / f"{kind}.json").write_text(json.dumps(document), encoding="utf-8")
        AssetPointers(self.store.root).write(kind, None, self.store.commit(draft, document))

    def move(self, *, force: bool = False, two_people: bool = False) -> ChampionRecord | None:
        settings = SETTINGS.model_copy(update={"two_people": two_people})
        return self.promote(self.comparison, settings, "lora", force=force, reason="tone" if force else "")[0]

    def rollback(self) -> ChampionRecord:
        return manual_promotion.rollback(self.store, self.comparison, "")

    def run(self) -> None:
        """What a run does for the asset `champion`."""
        decision = current_artifact(self.store, "decision")
        assert decision is not None
        inputs = {"comparison": decision.inputs["comparison"], "decision": decision.reference}
        out = self.root / "champion"
        out.mkdir()
        build: Any = STEPS["champion"].build
        build(BuildContext(Project(self.root), self.store, Spec("champion", inputs, {}), {}, out))

    def anchor(self) -> None:
        write_anchor(self.store.root, str(self.root.parent / "anchor.jsonl"))

    def back_up(self) -> None:
        with writing_place(str(self.root.parent / "backup"), self.root) as place:
            back_up(Project(self.root), place, lambda done, total: None, with_key=False)


@pytest.fixture(scope="module")
def released_once(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return Released(tmp_path_factory.mktemp("released") / "shop")


@pytest.fixture
def released(released_once: Released, tmp_path: Path) -> Released:
    return _opened(released_once, tmp_path)


def _opened(other: Released, folder: Path) -> Released:
    shutil.copytree(other.root, folder / "shop")
    opened = Released.__new__(Released)
    opened.root = folder / "shop"
    opened.store = type(other.store)(opened.root / "data" / "store")
    return opened


def newest(shop: Released, kind: str) -> Path:
    return attacks.newest(shop, kind)  # type: ignore[arg-type]


def rebuild(shop: Released, folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Change a document of an artifact, and compute every hash again."""
    document = json.loads((folder / name).read_bytes())
    change(document)
    attacks.rebuild_all_hashes(shop, folder, name, json.dumps(document).encode())  # type: ignore[arg-type]


def rewrite_comparison(shop: Released) -> None:
    rebuild(shop, newest(shop, "comparison"), "comparison.json", lambda document: document.update(made="up"))


def rewrite_comparison_alone(shop: Released) -> None:
    """Only the comparison's manifest and its pointer are hashed again; nothing that was made of it."""
    folder, root = newest(shop, "comparison"), shop.store.root
    before = {path: path.read_bytes() for path in root.rglob("*.json") if folder not in path.parents}
    rewrite_comparison(shop)
    for path, content in before.items():
        if path.parts[-2] != "current" and path.is_file():
            path.write_bytes(content)


def rewrite_scores(shop: Released) -> None:
    """The comparison of other scores is made by a run, which signs it."""
    rebuild(shop, newest(shop, "scores"), "scores.json", lambda document: document["rows"][0].update(note="x"))
    compare_again(shop, shop.comparison.inputs)
    shop.put_document("decision", shop.decision(), {"comparison": shop.comparison})


def compare_again(shop: Released, inputs: Mapping[str, ArtifactReference]) -> None:
    scores = current_artifact(shop.store, "scores", "lora")
    assert scores is not None
    shop.baseline = shop.store.require(*inputs["lora/prompt_baseline"])
    shop.compare(scores, (current(shop.store.root), shop.store.require(*inputs["champion/scores"])))


def pass_failed_check(shop: Released) -> None:
    """The summary, which has the result of a check, is not part of an artifact's identity."""
    folder = newest(shop, "merged_model")
    edit(folder / "manifest.json", lambda manifest: manifest["summary"].update(passed=True, by="ceo"), reseal=True)


def put_back_comparison(shop: Released) -> None:
    old = shop.store.all("comparison")[0]
    pointer = shop.store.root / "current" / "comparison.json"
    edit(pointer, lambda found: found.update(fingerprint=old.fingerprint, manifest_sha256=old.manifest_sha256))


def pass_failed_check_after_garbage_was_made_again(shop: Released) -> None:
    """`ft gc` removed the comparison, and a run made the same one again."""
    before = shop.comparison
    remove_garbage(shop.store, Garbage([before]))
    compare_again(shop, before.inputs)
    assert shop.comparison.reference == before.reference and shop.move(two_people=True) is not None
    pass_failed_check(shop)


ATTACKS = (
    rewrite_comparison,
    rewrite_comparison_alone,
    rewrite_scores,
    pass_failed_check,
    pass_failed_check_after_garbage_was_made_again,
    put_back_comparison,
)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("release", [Released.move, Released.run])
def test_no_release_is_signed_on_changed_evidence(
    released: Released, attack: Callable[[Released], None], release: Callable[[Released], object]
) -> None:
    attack(released)
    records = history(released.store.root)
    with pytest.raises(UserError, match=r"is not as it was signed: .*Run `ft audit --verify`"):
        release(released)
    assert history(released.store.root) == records


def test_a_release_on_signed_evidence_is_made(released: Released) -> None:
    released.run()
    assert [record.by_hand for record in history(released.store.root)] == [True, True, False]
    released.rollback()
    released.anchor()
    released.back_up()


def test_the_artifact_is_named(released: Released) -> None:
    rewrite_comparison(released)
    name = f"comparison {released.comparison.fingerprint[:12]}"
    with pytest.raises(UserError, match=f"{name} is not in the signed journal: it was added without the key"):
        released.move()


def test_a_rollback_to_a_changed_model_is_refused(released: Released) -> None:
    first = history(released.store.root)[0].fingerprints["merged_model"]
    folder = released.store.require("merged_model", first).path
    edit(folder / "manifest.json", lambda manifest: manifest["summary"].update(by="ceo"), reseal=True)
    with pytest.raises(UserError, match=f"merged_model {first[:12]} was edited"):
        released.rollback()
    assert len(history(released.store.root)) == 2


def test_a_request_on_changed_evidence_is_not_approved(released: Released, monkeypatch: pytest.MonkeyPatch) -> None:
    released.move(two_people=True)
    model = newest(released, "merged_model") / "content.json"
    model.write_text("{}", encoding="utf-8")  # the manifest is as it was signed
    monkeypatch.setattr(provenance, "_name_of", lambda uid: "bob")
    with pytest.raises(UserError, match=r"merged_model [0-9a-f]{12} is missing or damaged"):
        requests.approve(released.store.root, 1)


def test_a_request_in_the_name_of_somebody_else_is_not_approved(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(requests, "user_name", lambda: "bob")
        released.move(two_people=True)
    with pytest.raises(UserError, match=r"Request 1 is not as it was signed: it names bob, but .* signed it"):
        requests.approve(released.store.root, 1)


@pytest.mark.parametrize("command", [Released.anchor, Released.back_up])
def test_a_changed_store_is_not_kept_elsewhere(released: Released, command: Callable[[Released], None]) -> None:
    rewrite_comparison(released)
    with pytest.raises(UserError, match=r"artifacts/comparison/.*Run `ft audit --verify`"):
        command(released)
    assert not (released.root.parent / "anchor.jsonl").exists()
    assert not list((released.root.parent / "backup").rglob("*.json"))


def test_what_a_release_does_not_rest_on_may_be_damaged(released: Released) -> None:
    """A damaged artifact stays in the store when it is made again."""
    other = released.put("merged_model", {}, "of nobody")
    edit(other.path / "manifest.json", lambda manifest: manifest.update(seal="x"))
    assert released.move() is not None


@pytest.mark.parametrize("command", ["compare", "recommend", "champion"])
def test_commands_that_show_changed_evidence_say_so(released: Released, command: str) -> None:
    def ft() -> tuple[Any, str]:
        done = CliRunner().invoke(app, [command, "--json", "--project", str(released.root)])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout), done.stderr

    shown, said = ft()
    assert shown and said == ""
    pass_failed_check(released)
    champion = history(released.store.root)[-1].fingerprints["merged_model"]
    folder = released.store.require("merged_model", champion).path
    edit(folder / "manifest.json", lambda manifest: manifest["summary"].update(by="ceo"), reseal=True)
    again, said = ft()
    assert again == shown
    assert said.count("\n") == 1 and "is not as it was signed: merged_model" in said


def test_a_clock_that_was_ahead_and_was_corrected_blocks_nothing(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = released.store.root
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    attacks.sign_line(released, {}, "pointer", tomorrow)  # type: ignore[arg-type]
    released.move(two_people=True)
    assert {fault.code for fault in check_signatures(root).faults} == {"back_dated"}
    push(root, open_place(str(released.root.parent / "copy")), "shop", lambda done, total: None)
    released.back_up()
    released.anchor()
    replace_key(root, "a new one")
    monkeypatch.setattr(provenance, "_name_of", lambda uid: "bob")
    assert requests.approve(root, 1).sequence == 3


def _content(folder: Path) -> dict[Path, bytes]:
    """All files, without locks: they have the number of the process that held them."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks"}


@pytest.mark.parametrize("command", ["compare", "recommend", "champion"])
def test_commands_that_show_do_not_complete_a_change(
    released: Released, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process signed a record, which is not written, or an artifact, which is still a draft."""
    root = released.store.root
    record = root / "champion" / "000003.json"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            released.put("merged_model", {}, "of a killed process")
    _show(released, command)
    with pytest.raises(KeyboardInterrupt), changing(root) as sign:
        sign_content(sign, root, "champion", record, b'{"sequence": 3}')
        raise KeyboardInterrupt
    _show(released, command)
    released.anchor()
    assert record.read_bytes() == b'{"sequence": 3}'


def _show(shop: Released, command: str) -> None:
    before = _content(shop.root)
    done = CliRunner().invoke(app, [command, "--json", "--project", str(shop.root)])
    assert done.exit_code == 0 and _content(shop.root) == before


def test_a_store_without_a_key_is_used_as_before(tmp_path: Path) -> None:
    shop = Released(tmp_path / "shop", signed=False)
    rewrite_comparison(shop)
    for command in ("compare", "champion"):
        done = CliRunner().invoke(app, [command, "--json", "--project", str(shop.root)])
        assert (done.exit_code, done.stderr) == (0, "")
    assert shop.move() is not None
    shop.back_up()


def test_what_was_made_before_the_store_got_a_key_is_evidence(tmp_path: Path) -> None:
    shop = Released(tmp_path / "shop", signed=False)
    replace_key(shop.store.root, "from now on")
    assert shop.move() is not None
    rewrite_comparison(shop)
    with pytest.raises(UserError, match="is not as it was signed"):
        shop.move()
