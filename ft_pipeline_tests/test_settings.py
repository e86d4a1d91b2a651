"""An error in project.yaml or an experiment names the file, the line, the value and the fix."""

from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from ft_pipeline.audit.subject import NothingReleased
from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.preferences.settings import KtoSettings
from ft_pipeline.project import Project, read_jsonl
from ft_pipeline.rewards.settings import GrpoSettings
from ft_pipeline.scaffold import example_folder
from ft_pipeline.settings.automation import RetrainingSettings
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.prompt_variant import PromptSearchSettings
from ft_pipeline.settings.secret_shapes import find_secret, may_contain_secret
from ft_pipeline.settings.training import TrainingSettings
from ft_pipeline.settings.yaml_file import Section, later, read_settings
from ft_pipeline.step import StepConfig
from ft_pipeline.steps import load_step, modules
from ft_pipeline.steps.conversations import SemanticModel
from ft_pipeline_tests.projects import project_of


def write_yaml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("technique: qlora\nlora:\n  lora_alpah: 4\n", ["line 3", "lora.lora_alpah", "Did you mean `lora_alpha`"]),
        ("technique: qlora\ntraining:\n  learning_rate: fast\n", ["line 3", "training.learning_rate", "'fast'"]),
        ("technique: qlora\nlora:\n  r: 0\n", ["line 3", "lora.r", "0", "greater than or equal to 1"]),
        ("technique: qlora\n  lora: [\n", ["line 2", "not valid YAML"]),
        ("technique: qlora\nlora:\n  r: 4\nlora:\n  r: 8\n", ["line 4", "duplicate key `lora`, first in line 2"]),
        ("- technique\n", ["Write `key: value` lines", "['technique']"]),
        ("# nothing yet\n", ["is empty"]),
        ("lora: &x\n  r: *x\n", ["an anchor contains itself"]),
        ("technique: lora\ndescription: 2026-02-30\n", ["line 2", "day is out of range", "Put it in quotes"]),
        ("technique: lora\nlora:\n  r: 1" + 5000 * "0", ["line 3", "5001 digits"]),
        ("technique: [lora]\n", ["line 1", "`technique` is ['lora']", "'qlora'"]),
        ("technique: lora\nlora: []\n", ["line 2", "`lora` is []", "block of `key: value` lines"]),
        ("lora:\n  r: true\n", ["line 2", "`lora.r` is true", "a number"]),
        ("training:\n  weight_decay: .inf\n", ["line 2", "`training.weight_decay` is inf", "finite"]),
        ("training:\n  seed: -1\n", ["line 2", "`training.seed` is -1"]),
        ("training:\n  seed: 99999999999\n", ["line 2", "`training.seed` is 99999999999"]),
        ("training:\n  report_to: tensorboard\n", ["line 2", "`training.report_to` is 'tensorboard'", "a list"]),
        ("training:\n  max_steps: ten\n", ["line 2", "`training.max_steps` is 'ten'", "-1, or a valid integer"]),
        ("lora:\n  target_modules:\n  - q_proj\n  - 3\n", ["line 4", "`lora.target_modules.1` is 3", "string"]),
        ("lora:\n  target_modules: 5\n", ["line 2", "`lora.target_modules` is 5", "a list: [first, second], or a"]),
        ("lora:\n  target_modules: all_linear\n", ["line 2", "Did you mean `all-linear`"]),
        ("lora:\n  target_modules: q_proj, k_proj\n", ["line 2", "Write names as a list: [q_proj, k_proj]"]),
        ("lora:\n  target_modules: '*q_proj'\n", ["line 2", "'*q_proj', which is not a valid regular"]),
        ("lora:\n  rank_pattern: {q_proj: 0}\n", ["line 2", "`lora.rank_pattern.q_proj` is 0"]),
        ("lora:\n  alpha_pattern: {'(': 4}\n", ["line 2", "`lora.alpha_pattern` contains '('"]),
        ("learning_rate: 1e-4\n", ["line 1", "unknown key `learning_rate`", "Move it to `training`"]),
        ("on: true\n", ["True is not a valid key", "Known keys: description"]),
        ("base_model: ''\n", ["line 1", "`base_model` is ''"]),
        ("technique: lora\nquantization:\n  bnb_4bit_quant_type: fp4\n", ["uses no 4-bit base", "technique: qlora"]),
        ("technique: lora\nmerge:\n  mode: auto\n", ["line 3", "only one merge mode"]),
    ],
)
def test_an_error_in_an_experiment_names_line_value_and_fix(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_settings(write_yaml(tmp_path, text), ExperimentSettings)
    for words in ["mine.yaml", *expected]:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("api_key: sk-secret-1", ["line 6", "teacher.endpoint.api_key` contains a key", "`api_key_env`"]),
        ("api_key_env: sk-secret-1", ["line 6", "the name of an environment variable"]),
        ("url: https://me:sk-secret-1@host/v1", ["line 5", "an address with a password"]),
        ("url: https://host/v1?key=sk-secret-1", ["line 5", "an address with a key"]),
        ("url: https://host/v1#sk-secret-1", ["line 5", "more than host and path"]),
        ("extra_body: {headers: {Authorization: Basic secret}}", ["line 6", "Authorization` contains a key"]),
        ("url: host/v1", ["Write one like https://host/v1"]),
        ("budget: {money: 3}", ["needs `prices`"]),
    ],
)
def test_an_error_in_the_endpoint_never_repeats_an_api_key(tmp_path: Path, lines: str, expected: list[str]) -> None:
    url = "" if lines.startswith("url") else "    url: https://host/v1\n"
    text = f"name: shop\nteacher:\n  model: big\n  endpoint:\n{url}    {lines}\n"
    with pytest.raises(UserError) as caught:
        read_settings(write_yaml(tmp_path, text), ProjectSettings)
    for words in expected:
        assert words in str(caught.value)
    assert "secret" not in str(caught.value)


BODY = "Ab3dEf6hIj9lMn2pQr5tUv8xYz1B4cDe7F"
SECRETS = [
    f"sk-{BODY}",
    f"sk-proj-{BODY}-{BODY}",
    f"sk-ant-api03-{BODY}",
    f"hf_{BODY}",
    f"ghp_{BODY}",
    f"github_pat_{BODY}",
    f"glpat-{BODY}",
    "AKIA" + BODY[:16].upper(),
    f"Bearer {BODY}",
    f"AIza{BODY}1234567",
    f"https://hooks.slack.com/services/T0/B0/{BODY}",
    f"xoxb-12-{BODY}",
    f"eyJ{BODY}.eyJ{BODY}.{BODY}",
    f"https://me:{BODY}@dagster.example.org",
    f"https://{BODY}@dagster.example.org/runs",
    f"postgresql://me:{BODY}@host/db",
    f"https://dagster.example.org/?token={BODY}",
    f"https://dagster.example.org/runs?a=1&api_key={BODY}",
    f"models/hf_{BODY}/final",
    f"-----BEGIN EC PRIVATE KEY----- {BODY}",
    "sk-9a385fb20bec6f0f9a385fb20bec6f0f",
    f"gsk_{BODY}",
    f"nvapi-{BODY[:12]}-{BODY}",
    f"xai-{BODY}",
    f"npm_{BODY}",
]
NO_SECRETS = [
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "gerulata/sk-legal-bert-base-cased",
    "Helsinki-NLP/opus-mt-en-sk",
    "hf-internal-testing/tiny-random-LlamaForCausalLM",
    "hf_internal_testing/tiny",
    "gpt-4o-mini-2024-07-18",
    "ft:gpt-4o-mini-2024-07-18:acme::9aBcDeFg",
    "claude-sonnet-4-5@20250929",
    "accounts/fireworks/models/deepseek-v3p1",
    "9a385fb20bec6f0f9a385fb20bec6f0f9a385fb20bec6f0f9a385fb20bec6f0f",
    "sha256:9a385fb20bec6f0f9a385fb20bec6f0f9a385fb20bec6f0f9a385fb20bec6f0f",
    "12fd25f77366fa6b3b4b768ec3050bf629380bac",
    "models/checkpoint-4000/model-00001-of-00002.safetensors",
    "/mnt/disk-1/task-questions-and-answers-2026-final",
    "s3://bucket/task-list/2026/rows.jsonl?versionId=3HL4kqtJlcpXroDTDmJ",
    "http://127.0.0.1:8000/v1",
    "https://dagster.example.org/runs?asset=key_facts",
    "https://example.org/@scope/package",
    "Send the header `Authorization: Bearer authentication-token`, then ask for the api_key.",
    "ssh://git@example.org/data.git",
    "risk-adjusted-answers-for-customers",
    "<|eot_id|>",
    "models/sk-slovak_support_model",
    "models/sk-SK-slovak_support_messages_V2-2026-finetuned",
    "data/hf_abcdefghijklmnopqrstuvwxyz/x",
    "sk-...",
    "postgres://user:password@host/db",
    "postgres://user:${DB_PASSWORD}@host/db",
    "https://<user>:<password>@host/db?token=…",
    "https://host/v1?auth=none&api_key=YOUR_API_KEY",
    "Write `postgres://user:password@host/db`, or postgres://shop:hunter2@localhost/shop.",
    "The header is Authorization: Bearer YOUR_TOKEN_123.",
    "Send the tracking link https://shop.example/track?sig=1 with it.",
]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:12])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name: shop\nteacher:\n  model: '{}'\n", "line 3: `teacher.model` contains "),
        ("name: shop\nnotifications: {{ui_url: '{}'}}\n", "line 2: `notifications.ui_url` contains "),
        (
            "name: shop\nprompting:\n  variants:\n    a: {{system_prompt: 'Say {}'}}\n",
            "`prompting.variants.a.system_prompt",
        ),
        ("name: shop\nteacher:\n  temperature: ['{}']\n", "line 3: `teacher.temperature.0` contains "),
        ("name: shop\n'{}': 1\n", "a key` contains "),
    ],
)
def test_a_secret_in_any_setting_is_refused_and_not_repeated(
    tmp_path: Path, secret: str, text: str, where: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_settings(write_yaml(tmp_path, text.format(secret)), ProjectSettings)
    assert where in str(caught.value)
    assert BODY[:12].lower() not in str(caught.value).lower()


@pytest.mark.parametrize("name", ["project.yaml", "experiments/mine.yaml"])
@pytest.mark.parametrize("command", ["backup /nowhere", "experiments", "run", "serve", "logs x"])
def test_commands_refuse_a_secret_even_if_they_read_no_setting(tmp_path: Path, name: str, command: str) -> None:
    error = invoke_with_secret(tmp_path, name, command).exception
    assert isinstance(
        error, UserError
    ) and "`teacher.chat_template_kwargs.api_key` contains a key or a password" in str(error)
    assert BODY not in str(error)


@pytest.mark.parametrize("name", ["project.yaml", "experiments/mine.yaml"])
@pytest.mark.parametrize("command", ["status", "audit --verify", "erase data/raw/alpaca/a.jsonl 1 --reason asked"])
def test_what_an_operator_must_be_able_to_do_warns_of_a_secret_and_goes_on(
    tmp_path: Path, name: str, command: str
) -> None:
    raw = tmp_path / "data" / "raw" / "alpaca"
    raw.mkdir(parents=True)
    (raw / "a.jsonl").write_text('{"instruction": "Who?", "output": "Ada."}\n' * 2, encoding="utf-8")
    result = invoke_with_secret(tmp_path, name, command)
    assert result.exit_code == 0 or isinstance(result.exception, NothingReleased), result.output
    assert "`teacher.chat_template_kwargs.api_key` contains a key or a password" in " ".join(result.stderr.split())
    assert "contains" not in result.stdout and BODY not in result.output
    assert ("Ada" in (raw / "a.jsonl").read_text(encoding="utf-8").splitlines()[0]) != command.startswith("erase")


def invoke_with_secret(root: Path, name: str, command: str) -> Result:
    """Run a command of a project of which one file contains a secret."""
    (root / "experiments").mkdir()
    (root / "project.yaml").write_text("name: shop\n", encoding="utf-8")
    with (root / name).open("a", encoding="utf-8") as file:
        file.write(f"teacher: {{model: m, chat_template_kwargs: {{api_key: '{BODY}'}}}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", "")  # open_project sets both
        patch.setenv("DAGSTER_HOME", "")
        patch.chdir(root)
        return CliRunner().invoke(app, [*command.split(), "--project", str(root)])


@pytest.mark.parametrize("value", NO_SECRETS)
def test_a_name_a_hash_or_a_path_is_no_secret(tmp_path: Path, value: str) -> None:
    text = f"name: shop\ntask: '{value}'\nteacher: {{model: '{value}'}}\nnotifications: {{ui_url: '{value}'}}\n"
    assert read_settings(write_yaml(tmp_path, text), ProjectSettings).teacher.model == value


@pytest.mark.parametrize("key", ["pad_token", "max_new_tokens", "stop_token", "monkey", "keyword", "secretary"])
def test_a_key_that_only_resembles_a_secret_is_kept(tmp_path: Path, key: str) -> None:
    text = f"name: shop\nteacher: {{model: m, chat_template_kwargs: {{{key}: x}}}}\n"
    assert read_settings(write_yaml(tmp_path, text), ProjectSettings).teacher.chat_template_kwargs == {key: "x"}


@pytest.mark.parametrize(
    "entry",
    [
        *("api_key: 12345678901", "password: 12345678", "api_key: [ab12]", "api_keys: [ab12]", "api_keys: ab12"),
        *("private_key: ab12", "passphrase: ab12", "secret: {password: ab12}", "my-api-key: $ecret1", "token: 1234.5"),
    ],
)
def test_the_name_of_a_key_tells_a_secret_whatever_its_value(entry: str) -> None:
    text = f"teacher: {{chat_template_kwargs: {{{entry}}}}}"
    assert may_contain_secret(text) and find_secret(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        *("credentials: none", "secret: ${SECRET}", "password:", "api_key: <your key>", "password: xxx"),
        *("token: </s>", "api_key: true", "token: 5", "secret: []", "auth: {credentials: {}}"),
        *("env_secrets: [ft-pipeline]", "metrics: {secret: exact_match}", "metrics: {m: {fields: {password: exact}}}"),
    ],
)
def test_a_placeholder_or_a_name_that_the_user_gave_is_no_secret(text: str) -> None:
    assert find_secret(yaml.safe_load(text)) is None


@pytest.mark.parametrize("text", ["name: 0x{}\n", "? 0x{}\n: 1\n", "name: shop\nteacher: {{top_p: [0x{}]}}\n"])
def test_a_number_of_thousands_of_digits_is_refused_in_any_base(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: line \d: the value cannot be read"):
        read_settings(write_yaml(tmp_path, text.format("f" * 5000)), ProjectSettings)


def bomb(line: str) -> str:
    """YAML of 12 lines that stands for 9^11 values."""
    lines = [line.format(n=n, aliases=", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 12)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


@pytest.mark.parametrize("model", [ProjectSettings, ExperimentSettings])
@pytest.mark.parametrize("line", ["a{n}: &a{n} [{aliases}]", "a{n}: &a{n} {{<<: [{aliases}], y: [{aliases}]}}"])
def test_aliases_that_stand_for_billions_of_values_are_refused(
    tmp_path: Path, model: type[ProjectSettings | ExperimentSettings], line: str
) -> None:
    with pytest.raises(UserError, match="line 1: not valid YAML: its aliases repeat too many values"):
        read_settings(write_yaml(tmp_path, bomb(line)), model)


def test_anchors_and_merge_keys_that_people_use_are_read(tmp_path: Path) -> None:
    lines = "\n".join(f"    v{n}: {{<<: *one, few_shot: {n % 9}}}" for n in range(500))
    text = f"name: shop\nprompting:\n  variants:\n    one: &one {{system_prompt: Answer., few_shot: 2}}\n{lines}\n"
    variants = read_settings(write_yaml(tmp_path, text), ProjectSettings).prompting.variants
    assert (variants["v499"].system_prompt, variants["v499"].few_shot) == ("Answer.", 4)


def test_an_endpoint_needs_the_name_of_its_model(tmp_path: Path) -> None:
    text = "name: shop\nteacher:\n  endpoint:\n    url: https://host/v1\n"
    with pytest.raises(UserError, match=r"`teacher\.model` must be the endpoint's name"):
        read_settings(write_yaml(tmp_path, text), ProjectSettings)


def test_several_answers_at_temperature_zero_are_refused(tmp_path: Path) -> None:
    text = "name: shop\nteacher:\n  answers_per_prompt: 4\n"
    with pytest.raises(UserError, match="at temperature 0 all answers are equal"):
        read_settings(write_yaml(tmp_path, text), ProjectSettings)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("objective: cpt\ndata:\n  weights:\n    human: 2\n", ["'cpt'", "only on data/raw/text", "`data.weights`"]),
        ("objective: sft\ndpo:\n  beta: 0.3\n", ["'sft' compares no answers", "objective: dpo"]),
        ("technique: full\nlora:\n  r: 4\n", ["'full' trains no LoRA matrices", "Remove `lora`"]),
        ("technique: full\nmerge:\n  max_kl: 0.5\n", ["nothing to merge"]),
        ("technique: prompt_tuning\nobjective: dpo\n", ["'dpo' does not work", "its own reference"]),
        ("technique: prompt_tuning\nobjective: cpt\n", ["'cpt' does not work", "cannot store texts"]),
        ("technique: prompt_tuning\nstart_from: x\n", ["Remove `start_from`"]),
        ("technique: prompt_tuning\ntraining: {padding_free: true}\n", ["prompt before each row", "padding_free"]),
        ("training: {padding_free: true, neftune_noise_alpha: 5}\n", ["joins the rows", "Remove one of the two"]),
        ("training: {padding_free: true, attn_implementation: sdpa}\n", ["has its own attention", "sdpa"]),
        ("training: {attn_implementation: flash}\n", ["training.attn_implementation", "flash_attention_2"]),
        ("training: {pure_bf16: true}\n", ["'qlora' trains 32-bit weights", "pure_bf16"]),
        ("technique: full\ntraining: {pure_bf16: true, optim: adamw_torch}\n", ["optim: paged_adamw_8bit"]),
        ("prompt_tuning:\n  num_virtual_tokens: 4\n", ["'qlora' has no virtual tokens"]),
        ("technique: prompt_tuning\nprompt_tuning:\n  prompt_tuning_init: TEXT\n", ["Set both or neither"]),
        ("data:\n  weights:\n    human: 0\n    distilled: 0\n", ["are 0, so there are no training rows"]),
        ("training:\n  max_steps: 0\n", ["line 2", "training.max_steps"]),
        ("training:\n  eval_rows: 0\n", ["line 2", "training.eval_rows"]),
        ("training:\n  evals_per_epoch: 0.5\n", ["line 2", "training.evals_per_epoch"]),
        ("training:\n  early_stopping_patience: -1\n", ["line 2", "training.early_stopping_patience"]),
    ],
)
def test_conflicting_settings_are_refused(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_settings(write_yaml(tmp_path, text), ExperimentSettings)
    for words in expected:
        assert words in str(caught.value)


def test_phases_are_listed_in_training_order(tmp_path: Path) -> None:
    texts = {"c": "objective: cpt\n", "s": "start_from: c\n", "d": "objective: dpo\nstart_from: s\n"}
    assert [name for name, _ in project_of(tmp_path, **texts).training_chain("d")] == ["c", "s", "d"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"a": "start_from: b\n", "b": "start_from: a\n"}, "forms a cycle: a → b → a"),
        ({"a": "start_from: a\n"}, "forms a cycle: a → a"),
        ({"a": "start_from: c\n", "b": "{}\n"}, r"a\.yaml: start_from: there is no experiment 'c'; known: a, b"),
        ({"a": "start_from: b\n", "b": "base_model: org/other\n"}, "but b, which it starts from, has 'org/other'"),
        ({"a": "start_from: b\n", "b": "technique: prompt_tuning\n"}, "there is no model to continue from"),
        (
            {"a": "start_from: b\n", "b": "chat_template_kwargs: {enable_thinking: false}\n"},
            r"a\.yaml: chat_template_kwargs differ from those of b",
        ),
        ({"a": "start_from: b\n", "b": "technique: magic\n"}, r"a\.yaml: start_from: b\.yaml: line 1"),
    ],
)
def test_an_invalid_start_from_is_refused(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        project_of(tmp_path, **texts).training_chain("a")


def test_an_experiment_file_with_an_invalid_name_is_reported(tmp_path: Path) -> None:
    project = project_of(tmp_path, lora="technique: lora\n", **{"My Model": "technique: lora\n", "ümlaut": ""})
    (tmp_path / "experiments" / "late.yml").write_text("technique: lora\n")
    assert project.experiment_names() == ["lora"]
    assert list(project.misnamed_files()) == ["My Model.yaml", "late.yml", "ümlaut.yaml"]
    assert all("Rename the file" in error for error in project.misnamed_files().values())


def test_an_experiment_needs_only_three_lines(tmp_path: Path) -> None:
    settings = read_settings(
        write_yaml(tmp_path, "base_model: embedded\nobjective: sft\ntechnique: lora\n"), ExperimentSettings
    )
    assert (settings.lora.r, settings.lora.alpha) == (8, 8)
    assert settings.lora.target_modules == "all-linear"


def test_shares_must_leave_training_rows(tmp_path: Path) -> None:
    text = "name: shop\ndata:\n  validation_share: 0.5\n  test_share: 0.4\n"
    with pytest.raises(UserError, match=r"to at most 0\.8"):
        read_settings(write_yaml(tmp_path, text), ProjectSettings)


def test_a_folder_without_project_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no project\.yaml"):
        Project.find(tmp_path)


def test_a_path_outside_the_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "secret.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="is outside the project folder"):
        Project(tmp_path / "shop").resolve_path("../secret.jsonl")


def test_a_broken_line_of_the_general_suite_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"query": "1 + 1?"}\n{"query": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"questions\.jsonl: line 2"):
        read_jsonl(path)


@pytest.mark.parametrize("schedule", ["0 2 * *", "60 2 * * *", "0 2 * * mon", "0 2 * * 1-9", "*/0 * * * *", "a"])
def test_an_invalid_cron_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match="is not a cron schedule of five numeric fields"):
        RetrainingSettings(schedule=schedule)


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/15 0-6,22 1 */2 0-5/2", "0 2 * * 7"])
def test_a_numeric_cron_schedule_is_accepted(schedule: str) -> None:
    assert RetrainingSettings(schedule=schedule).schedule == schedule


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown time zone 'Berlin'"):
        RetrainingSettings(timezone="Berlin")


def test_the_experiments_with_and_without_a_teacher_differ_only_in_weights() -> None:
    with_teacher, without = (
        read_settings(example_folder() / "experiments" / f"{name}.yaml", ExperimentSettings).model_dump(
            exclude={"description"}
        )
        for name in ("qlora", "qlora_human")
    )
    assert with_teacher["data"]["weights"]["distilled"] > 0
    without["data"]["weights"]["distilled"] = with_teacher["data"]["weights"]["distilled"]
    assert without == with_teacher


def test_newer_training_settings_are_dumped_only_if_set():
    """These settings identify an adapter. A key that is dumped by default would train every adapter again."""
    dumped = TrainingSettings().model_dump(mode="json")
    assert list(dumped) == [
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "max_length",
        "optim",
        "lr_scheduler_type",
        "warmup_ratio",
        "weight_decay",
        "max_grad_norm",
        "eval_steps",
        "early_stopping_patience",
        "gradient_checkpointing",
        "neftune_noise_alpha",
        "report_to",
        "seed",
    ]
    for newer in (
        {"padding_free": True},
        {"padding_free": False},
        {"evals_per_epoch": 2},
        {"eval_rows": 64},
        {"save_steps": 500},
    ):
        changed = TrainingSettings.model_validate(newer)
        assert changed.model_dump(mode="json") == {**dumped, **newer}
        assert TrainingSettings.model_validate(changed.model_dump(mode="json")) == changed


def test_settings_of_an_earlier_version_are_read():
    """Manifests and experiments contain the former default of 25 steps."""
    before = {"learning_rate": 0.001, "eval_steps": 25, "early_stopping_patience": 3, "report_to": []}
    dumped = TrainingSettings.model_validate(before).model_dump(mode="json")
    assert dumped == TrainingSettings().model_dump(mode="json") | before


@pytest.mark.parametrize("off", ["0", "null"])
def test_zero_and_null_both_turn_early_stopping_off(tmp_path: Path, off: str) -> None:
    settings = read_settings(
        write_yaml(tmp_path, f"training: {{early_stopping_patience: {off}}}\n"), ExperimentSettings
    )
    assert settings.training.early_stopping_patience is None


LATER = {
    "CostSettings": {"cached_input_per_million": 0.1, "label": 0.5},
    "DataSettings": {"golden_test": "added", "group_templates": False},
    "DpoSettings": {"loss_type": "ipo", "sft_weight": 0.5},
    "EvaluationSettings": {"rivals": ["majority"]},
    "ExperimentData": {"reasoning": "drop", "without": ("alpaca",), "relabels": True},
    "ExperimentSettings": {
        "chat_template_kwargs": {"enable_thinking": False},
        "kto": KtoSettings(beta=0.5),
        "grpo": GrpoSettings(beta=0.5),
        "distill": DistillSettings(teacher="teachers/large"),
    },
    "FunctionMetric": {"corpus": True},
    "PromotionSettings": {"worth": 0.05},
    "PromptSearchSettings": {"reflector": "teacher", "reflections": 3, "models": ["tuned"]},
    "PreferenceKeys": {"kto": KtoSettings(beta=0.5)},
    "PromptVariant": {"replace_system": True, "example_rows": ["row-1"]},
    "PromptingSettings": {"tuned_with": ["brief"], "search": PromptSearchSettings(tries=3)},
    "RewardKeys": {"grpo": GrpoSettings(beta=0.5)},
    "TeacherSettings": {"chat_template_kwargs": {"enable_thinking": False}},
    "TrainingSettings": {
        "tokens_per_batch": 512,
        "long_rows": "skip",
        "evals_per_epoch": 2,
        "eval_rows": 64,
        "save_steps": 8,
        "padding_free": False,
        "torch_compile": True,
        "use_liger_kernel": True,
        "attn_implementation": "sdpa",
        "pure_bf16": True,
    },
    "Trained": {
        "chat_template_kwargs": {"enable_thinking": False},
        "kto": KtoSettings(beta=0.5),
        "grpo": GrpoSettings(beta=0.5),
    },
    "base_model": {"chat_template_kwargs": {"enable_thinking": False}},
    "tables": {"mask": {"alpaca": ["EMAIL_ADDRESS"]}, "shares": DataSettings()},
    "conversations": {
        "semantic_duplicates": SemanticModel(model="minilm", revision=None, content=None, similarity=0.8)
    },
    "teacher_answers": {"ignored_while_decoding": ["top_k"]},
    "training_data": {"data": DataSettings(), "relabels": "0" * 64},
    "adapter": {"rewards": {"short": 1}, "ignored_while_decoding": ["top_k"]},
    "gguf": {"name": "shop-lora"},
    "champion": {"approved": 3},
    "searched_prompt": {"reflector": {"name": "judges/large"}, "asks_train_rows": True, "own": {"reasoning": "drop"}},
}
"""Section, or step for its config → key added after the first projects ran → a value that is not its default."""


def sections(model: type[Section] = Section) -> set[type[Section]]:
    return {found for child in model.__subclasses__() for found in {child, *sections(child)}}


def name_of(model: type[Section]) -> str:
    """The config of every step has one and the same name, so its step's is taken."""
    return model.__module__.rpartition(".")[2] if issubclass(model, StepConfig) else model.__name__


def test_a_later_key_is_in_a_spec_only_if_it_has_another_value_than_its_default() -> None:
    """A key that is dumped with its default would make every step that reads it run again in old projects."""
    for name in modules():
        load_step(name)
    widest_last = sorted(sections(), key=lambda model: len(model.model_fields))  # features extend one of this name
    models = {name_of(model): model for model in widest_last if model.__module__.startswith("ft_pipeline.")}
    assert {
        name: found
        for name, model in models.items()
        if (found := {key for key, field in model.model_fields.items() if field.exclude_if})
    } == {name: set(values) for name, values in LATER.items()}
    for name, values in LATER.items():
        unset = models[name].model_construct().model_dump(mode="json", by_alias=False).keys()
        assert not unset & values.keys()
        for key, value in values.items():
            written = models[name].model_fields[key].alias or key
            changed = models[name].model_construct(**{written: value}).model_dump(mode="json", by_alias=False)
            assert changed.keys() - unset == {key}


def test_a_later_key_keeps_its_rules() -> None:
    class Later(Section):
        share: float = later(0.5, gt=0)
        names: list[str] = later(default_factory=list)

    assert Later().model_dump() == Later(share=0.5, names=[]).model_dump() == {}
    assert Later(share=1, names=["a"]).model_dump() == {"share": 1.0, "names": ["a"]}
    assert Later().names is not Later().names
    with pytest.raises(ValueError, match="greater than 0"):
        Later(share=0)
