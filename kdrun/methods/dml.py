"""Networks that teach each other while they learn: deep mutual learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdrun import losses
from kdrun.methods.base import Batch, Method, Objective, Pair, StudentOutput, TeacherOutput
from kdrun.methods.facts import Options, added


class DML(Method):
    """Deep mutual learning (Zhang et al., CVPR 2018): `CE_k + weight / (K - 1) sum_{l != k} KL(p_l || p_k)`, each k.

    K networks of one architecture, differently initialised, learn on the same views. The update is synchronous: all of
    them answer a batch, then all take their step; the paper updates one after the other, each against the others' new
    answers. The student is one of them, the others are its peers, all of the student's architecture. The loss is the
    sum over all of them, the terms that are logged are the student's.

    Args:
        student: maps `[N, C, H, W]` to logits `[N, K]`.
        pair: makes the peers.
        num_networks: the student included, from 2 to 100.
        temperature: T of the KL, from 0.001 to 10,000, which carries T^2; the paper has 1.
        weight: of the KL, from 0 to 1e9.
    """

    name = "dml"
    label = "DML"
    knowledge = "response"
    scheme = "online"
    label_kind = "mixed"
    whole_batch = False

    def __init__(
        self, student: nn.Module, pair: Pair, *, num_networks: int = 2, temperature: float = 1.0, weight: float = 1.0
    ) -> None:
        super().__init__(student)
        losses.check_range("num_networks", num_networks, 2, 100)
        losses.check_temperature("temperature", temperature)
        losses.check_weight("weight", weight)
        self.others = nn.ModuleList(pair.fresh() for _ in range(num_networks - 1))
        self.temperature = temperature
        self.weight = weight

    def objective(self, student: StudentOutput, batch: Batch, teacher: TeacherOutput | None) -> Objective:
        answers = [student.logits, *(peer(batch.x) for peer in self.others)]
        hard = [batch.cross_entropy(logits) for logits in answers]
        mutual = [self._mutual(k, answers) for k in range(len(answers))]
        terms = {"ce": torch.stack(hard).sum(), "dml": torch.stack(mutual).sum()}
        objective = Objective.of(student.logits, terms, {"ce": 1.0, "dml": self.weight})
        return dataclasses.replace(objective, terms={"ce": hard[0], "dml": mutual[0]})

    def _mutual(self, k: int, answers: list[Tensor]) -> Tensor:
        """The mean KL from the others' answers to that of network k."""
        others = [logits for i, logits in enumerate(answers) if i != k]
        kls = [losses.soft_target_loss(answers[k], logits, temperature=self.temperature) for logits in others]
        return torch.stack(kls).mean()

    @classmethod
    def objective_text(cls, options: Options, num_classes: int) -> str:
        return added((1.0, "CE"), (options["weight"], cls.name))

    def peers(self) -> Mapping[str, nn.Module]:
        """The other networks: `peer1`, `peer2`, ..."""
        return {f"peer{i + 1}": peer for i, peer in enumerate(self.others)}
