"""`chat_template_kwargs`: variables that are set in the template of a base model, for everything that renders it."""

import json
import shutil

import pytest
from pydantic import ValidationError

from ft_pipeline.errors import UserError
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.models.chat import prompt_and_target, render
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.release.export.chat_template import template_with_prompt, template_with_variables
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline_tests.release.chat_families import of_trl
from ft_pipeline_tests.training.subject import Listener

QUESTION = [{"role": "user", "content": "Where is it?"}]
ANSWERED = [*QUESTION, {"role": "assistant", "content": "Here."}]
NO_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture
def folder(tmp_path, tiny_base):
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(of_trl("qwen3"))
    return folder


def convert(tmp_path, folder, variables):
    out = tmp_path / "out"
    out.mkdir()
    config = {"model": str(folder), "revision": None, "chat_template_kwargs": variables}
    return out, base_model.run(Job("base_model", config, {}, out, tmp_path, "cpu", Listener()))


def test_prompt_and_training_text_have_the_value_and_a_request_cannot_change_it(tmp_path, folder):
    out, summary = convert(tmp_path, folder, {"enable_thinking": False})
    assert summary["template_sha256"] != base_model.template_sha256(folder)
    tokenizer, plain = load_tokenizer(out), load_tokenizer(folder)
    prompt = render(tokenizer, QUESTION, add_generation_prompt=True)
    assert prompt == render(plain, QUESTION, add_generation_prompt=True) + NO_THOUGHT
    asked = plain.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert prompt == asked
    assert prompt_and_target(tokenizer, ANSWERED) == (prompt, "Here.<|im_end|>")
    assert prompt == tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )


def test_exported_templates_keep_the_value(tmp_path, folder):
    tokenizer = load_tokenizer(convert(tmp_path, folder, {"enable_thinking": False})[0])
    exported = template_with_variables(template_with_prompt(tokenizer.chat_template, "Be brief.", []))
    values = {"ft_messages": QUESTION, "enable_thinking": True}  # llama.cpp sets the latter by itself
    text = tokenizer.apply_chat_template(
        QUESTION, chat_template=exported, tokenize=False, add_generation_prompt=True, **values
    )
    assert text.endswith(NO_THOUGHT)


def test_a_template_in_the_config_of_the_tokenizer_is_changed_too(tmp_path, folder):
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": of_trl("qwen3")}, {"name": "tool_use", "template": of_trl("qwen3")}]
    for stored in (of_trl("qwen3"), named):
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": stored}))
        tokenizer = load_tokenizer(convert(tmp_path, folder, {"enable_thinking": False})[0])
        assert render(tokenizer, QUESTION, add_generation_prompt=True).endswith(NO_THOUGHT)
        shutil.rmtree(tmp_path / "out")


def test_a_variable_that_the_template_does_not_read_is_one_clear_error(tmp_path, folder):
    with pytest.raises(UserError, match=r"does not read `thinking`\. It reads .*enable_thinking.*; change"):
        convert(tmp_path, folder, {"thinking": False})


def test_a_model_without_a_template_is_refused(tmp_path, folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template that could read"):
        convert(tmp_path, folder, {"enable_thinking": False})


def test_the_settings_are_checked_and_absent_by_default():
    assert "chat_template_kwargs" not in ExperimentSettings().model_dump(mode="json")
    assert "chat_template_kwargs" not in TeacherSettings().model_dump(mode="json")
    variables = {"enable_thinking": False, "effort": "low", "depth": 2}
    dumped = ExperimentSettings(chat_template_kwargs=variables).model_dump(mode="json")["chat_template_kwargs"]
    assert dumped == variables and dumped["enable_thinking"] is False
    with pytest.raises(ValidationError, match="`messages`, which each conversation sets for itself"):
        ExperimentSettings(chat_template_kwargs={"messages": "x"})
    with pytest.raises(ValidationError, match="no name of a variable"):
        ExperimentSettings(chat_template_kwargs={"enable thinking": True})
    endpoint = {"url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ValidationError, match="only for a model on this machine"):
        TeacherSettings.model_validate(
            {"model": "m", "endpoint": endpoint, "chat_template_kwargs": {"enable_thinking": False}}
        )
