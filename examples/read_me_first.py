"""Read this file first: the path from raw rows to a verdict, without orchestration, in one file that runs.

The embedded model (SmolLM2-135M) learns to sort messages to a shop into five labels, from some 60 rows. This takes at
most two minutes on two idle cores: `python examples/read_me_first.py`

Each stage is a few functions of the package, and its comment names the files to open next, in ft_pipeline/. A project
(`ft run`) calls the same functions. It adds what is left out here: artifacts that are found again, worker processes,
trainings that resume, the Dagster graph (docs/architecture.md).
"""

import json
import logging
import os
import tempfile
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # libraries print nothing: only this file does
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

from ft_pipeline.decide.build import build
from ft_pipeline.decide.promote import Court, decide
from ft_pipeline.decide.released import Candidate
from ft_pipeline.decide.ruling import reasons
from ft_pipeline.decide.verdict import Summary
from ft_pipeline.evaluation.comparison.score import describe_score
from ft_pipeline.evaluation.metrics.custom_metrics import resolve_metrics
from ft_pipeline.evaluation.rivals import score as rivals
from ft_pipeline.evaluation.rivals import word_model
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.evaluation.scoring.scorer import Scorer
from ft_pipeline.evaluation.scoring.tested_model import ModelUnderTest
from ft_pipeline.execution.workers.reporting import NullReporter
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import EMBEDDED, fetch_model
from ft_pipeline.models.compute_dtype import compute_dtype
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.training.objectives.registry import OBJECTIVES
from ft_pipeline.training.techniques import new_model, save_adapter
from ft_pipeline.training.token_rows import failures
from ft_pipeline.training.tokens.token_audit import TokenAudit
from ft_pipeline.training.trainer.acceleration import speed_up
from ft_pipeline.training.trainer.arguments import training_arguments
from ft_pipeline.training.trainer.checkpoints import checkpoint_folder
from ft_pipeline.training.trainer.evaluations import EarlyStopping, evaluation_intervals
from ft_pipeline.training.trainer.token_trainer import TrainerSetup, train_or_resume

temporary, device, reporter = tempfile.TemporaryDirectory(), "cpu", NullReporter()
folder, data = Path(temporary.name), Path(__file__).parent / "classification" / "data"
for part in ("raw", "base_model", "adapter", "work", "prompt_baseline", "word_model", "rival_scores", "scores"):
    (folder / part).mkdir()

# The raw files: each sixth situation of the example `classification`, each with three messages, and each eighth for the
# test. Two faulty rows show what happens to such rows.
raw, faulty = folder / "raw", ["not JSON", '{"instruction": "Where is my parcel?", "output": ""}']
for file, every in (("messages.jsonl", 6), ("messages_test.jsonl", 8)):
    lines = enumerate((data / "raw" / "alpaca" / file).read_text(encoding="utf-8").splitlines())
    kept = [line for number, line in lines if number // 3 % every == 0]
    (raw / file).write_text("\n".join(kept + faulty), encoding="utf-8")
questions = [json.loads(line) for line in (data / "general" / "questions.jsonl").open(encoding="utf-8")][::5]

# 1. Rows: files of one format become a table. No row is lost silently: each is accepted, a duplicate, or in quarantine
# with a reason. The sidecar of the test file makes its rows, and no others, the test rows. Next: tables/build.py
shares = DataSettings(validation_share=0.3)
sidecars = {"messages.jsonl": None, "messages_test.jsonl": {"split": "test"}}
files = [SourceFile(file, raw / file, sha256="", sidecar=sidecar) for file, sidecar in sidecars.items()]
table = build_table("alpaca", files, folder / "alpaca", max_quarantined=0.1, shares=shares)
print(f"1 rows           {table.read} read = {table.accepted} accepted + {table.quarantined} quarantined", end=" ")
print(f"{table.reasons} + {table.duplicates} duplicates; checks passed: {table.passed}")

# 2. Conversations: tables of all formats in one form, each row in a split. Prompts that are alike share a split. A row
# near a held-out row or a general question is not trained on. Next: tables/conversations.py
suite = SuiteTexts.of([(row["query"], row["choices"][row["gold"]]) for row in questions], [], [])
conversations = folder / "conversations"
made = build_conversations({"alpaca": folder / "alpaca"}, conversations, settings=shares, suite=suite)
print(f"2 conversations  {made.splits}; set aside: {made.set_aside or 'none'}; checks passed: {made.passed}")

# 3. Settings and base model. In a project, the settings come from project.yaml and experiments/NAME.yaml. A Job is all
# that a stage knows of the world: settings, input folders, an output folder. Next: job.py, models/base_model.py
labels = ["delivery", "refund", "damaged", "product", "account"]
topic = {"type": "classification", "labels": labels, "decides": True}
evaluation = EvaluationSettings.model_validate({"max_new_tokens": 6, "batch_size": 32, "metrics": {"topic": topic}})
scoring = {"evaluation": evaluation.model_dump(mode="json"), "general_questions": questions, "general_texts": []}
scoring["custom_metrics"] = resolve_metrics(folder, evaluation.metrics)  # of a check: its settings and its version
training = {"learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 2, "evals_per_epoch": 2}
experiment = ExperimentSettings.model_validate({"technique": "lora", "training": {**training, "optim": "adamw_torch"}})
base, work = folder / "base_model", folder / "work"
inputs = {"conversations": conversations, "base_model": base}
print(f"3 base model     {fetch_model(EMBEDDED, None, base, reporter)[0]}")

# 4. Tokens: the chat template makes a text of a conversation. Only the answer and its stop token are trained. An audit
# checks each row before anything trains. Next: training/objectives/sft.py, training/tokens/chat_tokens.py
tokenizer = load_tokenizer(base)
limits = {"max_length": experiment.training.max_length, "vocabulary": len(tokenizer)}
job = Job("training_data", {}, inputs, folder, work, device, reporter)
prepared = OBJECTIVES["sft"].prepare_rows(job, experiment, tokenizer, limits)
rows, audit = prepared.sources[0].batch(0), TokenAudit(limits["max_length"], limits["vocabulary"])
prepared.sources[0].check(rows)
audit.add(rows)
audited = audit.report(tokenizer, prepared.checks(), example=rows[0])
print(f"4 tokens         {audited['tokens']:,}, {audited['trained_share']:.0%} of them trained, in ⟦ ⟧;", end=" ")
print(f"failed checks: {failures(audited) or 'none'}\n\n{audited['example']['marked']}\n")

# 5. Training: LoRA matrices beside frozen weights. The step with the lowest held-out loss is kept. Other techniques,
# GPUs and several processes have the same trainer. Next: training/adapter.py, training/trainer/token_trainer.py
model = new_model(base, experiment, device)
speed_up(model, experiment.training, device)
encoded = [(row, {"id": row.id, "input_ids": row.encoded.input_ids, "labels": row.encoded.labels}) for row in rows]
train, held_out = ([tokens for row, tokens in encoded if row.split == split] for split in ("train", "validation"))
arguments = training_arguments(experiment.training, work / "checkpoints", device, compute_dtype(device))
lengths = [len(tokens["input_ids"]) for tokens in train]
arguments.eval_steps, arguments.save_steps = evaluation_intervals(experiment.training, lengths)
setup = TrainerSetup(experiment, model, tokenizer, train, held_out, arguments)
trainer, stopping = OBJECTIVES["sft"].trainer.for_experiment(setup), EarlyStopping(patience=None)
trainer.add_callback(stopping)
train_or_resume(trainer, stopping)
losses = {entry["step"]: round(entry["eval_loss"], 2) for entry in trainer.state.log_history if "eval_loss" in entry}
save_adapter(checkpoint_folder(work / "checkpoints", trainer.state.best_global_step), folder / "adapter", base)
print(f"5 training       {len(train)} rows; held-out loss, nats per token, by step: {losses}; the lowest is kept")

# 6. Scores: all models answer the same test rows in the same harness. The base model is also scored with a prompt that
# names the labels: a prompt is cheaper than a training. Cheaper still are a constant answer, the answer of the nearest
# question, and a classifier on words. General questions show what tuning costs. Next: evaluation/scoring/scorer.py,
# evaluation/rivals/score.py
instructions = f"What is the message about? Reply with one word: {', '.join(labels)}."
plain = ModelUnderTest("plain", "base", Prompt(), runs_general_suite=True)
prompted = ModelUnderTest("instructions", "prompt", Prompt(system_prompt=instructions))
tuned = ModelUnderTest("adapter", "adapter", Prompt(), {"technique": "lora"}, runs_general_suite=True)
for kind, tested in (("prompt_baseline", [plain, prompted]), ("scores", [tuned])):
    model = load_model(base, device, adapter=folder / "adapter" if kind == "scores" else None)
    speed_up_products(model, trains=False)
    scorer = Scorer(Job(kind, scoring, inputs, folder / kind, work, device, reporter), tested)
    for tested_model in tested:
        scorer.score(model, tested_model)
    scorer.write(tested)
word_model.run(Job("word_model", {"seed": 0}, inputs, folder / "word_model", work, device, reporter))
cheap, inputs["word_model"] = {**scoring, "rivals": ["majority", "nearest_answer", "word_model"]}, folder / "word_model"
rivals.run(Job("rival_scores", cheap, inputs, folder / "rival_scores", work, device, reporter))

# 7. Comparison: leads are paired, because all answered the same rows. Messages of one situation are alike, so that each
# situation counts once. Next: decide/build.py, evaluation/comparison/leads.py
promotion = PromotionSettings()
scores = {f"lora/{kind}": folder / kind for kind in ("prompt_baseline", "scores")}
scores["rivals/rival_scores"] = folder / "rival_scores"
config = {"primary_metric": "auto", "decides": "topic", "forgetting_margin": promotion.forgetting_margin}
comparison = build(scores, config, conversations=conversations)
for found in comparison.rows:
    known = "" if found.accuracy is None else f"; {found.accuracy:.0%} of the general questions are right"
    print(f"7 comparison     {found.name}: accuracy {describe_score(found.scores['topic'], 2)}{known}")
own = comparison.tuned()[0]
for bar in (row for row in comparison.rows if row.rights.is_bar):
    if lead := comparison.lead_over(own, bar):
        print(f"7 comparison     lead of {own.name} over {bar.name}: {describe_score(lead, 2, sign='+')}")

# 8. Decision: rules ask for claims, such as "it leads by more than chance" and "it has forgotten little". What is not
# shown does not count. The verdict says it in one sentence. Next: decide/promote.py, decide/verdict.py
gates = {"token_audit": not failures(audited)}
tuned_model = Candidate(name=own.name, kind="adapter", experiment="lora", fingerprint="adapter", gates=gates)
classifier = Candidate(name=word_model.NAME, kind="classifier", experiment=None, fingerprint=word_model.NAME)
candidates = {candidate.name: candidate for candidate in (tuned_model, classifier)}
decision = decide(court := Court(comparison, candidates, promotion))
verdict = Summary(comparison, decision, champion=None, has_champion=False).verdict()
print(f"8 decision       {reasons(court, decision)[-1]}")
print(f"8 verdict        {verdict.sentence}\n                 {verdict.basis}")
temporary.cleanup()
