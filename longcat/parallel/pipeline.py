"""Pipeline parallelism: each process has one or two stages of the model, through which micro-batches go one after the other.

torch's schedules (`torch.distributed.pipelining`) say in which order. A stage passes on its output and the sum of the losses
so far, which the last one differentiates; what layers need to know of the rows, every process has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)
from torch.distributed.tensor import DTensor

from longcat.config import ModelConfig, Phase
from longcat.costs.stages import Schedule, stage_owner, stages_of
from longcat.model.cache import Cache
from longcat.model.part import Part
from longcat.model.recomputation import use_recomputation
from longcat.model.transformer import LongcatModel, LossSums, Onward
from longcat.parallel.accumulate import Learn, MicroBatch
from longcat.parallel.data import Sharded
from longcat.parallel.embedding import SpreadTables
from longcat.parallel.holder import holder_at
from longcat.parallel.mesh import ProcessMesh
from longcat.parallel.passes import passing


class _Work(NamedTuple):
    """What a stage computes in a step."""

    batch: Sequence[MicroBatch]
    phase: Phase
    learn: Learn


class Stage(LongcatModel):
    """A part of a model, as torch's schedules call it in a step: with what the stage before has given.

    Its calls are one for each micro-batch, in order. Outside of a step it is called as any model.
    """

    def __init__(self, whole: LongcatModel, part: Part) -> None:
        """Take a part out of a model, its weights included; a second part with the word embedding has a copy of it."""
        with torch.device("meta"):
            super().__init__(whole.config, whole.operators, part)
        weights = whole.state_dict()
        own = {name: weights[name] for name in self.state_dict()}
        if not part.first:
            own = {name: of.clone() if name == EMBEDDING else of for name, of in own.items()}
        self.load_state_dict(own, assign=True)
        self.train(whole.training)
        self.places = whole.places
        use_recomputation(self, whole.model.recomputation)
        self._work: _Work | None = None
        self._done = 0

    def begin(self, batch: Sequence[MicroBatch], phase: Phase, learn: Learn) -> None:
        """Let the next calls be those of a step."""
        self._work, self._done = _Work(batch, phase, learn), 0

    def end(self) -> None:
        """Let calls be ordinary ones again.

        Raises:
            RuntimeError: a micro-batch was left out.
        """
        if self._work is not None and self._done != len(self._work.batch):
            raise RuntimeError(f"{self._done} of {len(self._work.batch)} micro-batches went through a stage")
        self._work = None

    def forward(self, *arguments: Any, **settings: Any) -> Any:
        """Compute the next micro-batch of a step, or what `LongcatModel.forward` does.

        Returns:
            In a step the output for the next stage and the sum of the losses so far; of the last stage this sum alone.
        """
        if self._work is None:
            return super().forward(*arguments, **settings)
        batch, phase, learn = self._work
        number, rows = self._done, batch[self._done]
        self._done += 1
        before, losses = arguments or (None, None)
        if phase == "warmup" and before is not None:
            before = before.detach()  # nothing before this stage learns from it
        found = super().forward(
            rows.tokens,
            rows.targets,
            phase=phase,
            documents=rows.documents,
            padding=rows.padding,
            before=before,
        )
        onward = found if isinstance(found, Onward) else None
        sums = cast(LossSums, found if onward is None else onward.sums)
        loss = learn(number, sums, self.part.layers)
        total = loss if losses is None else losses + loss
        return total if onward is None else (onward.hidden, total)


EMBEDDING = "model.embed_tokens.weight"
"""Name of the word embedding, which the first stage has, and for multi-token prediction the last one too."""


class _Marked(PipelineStage):
    """A stage for torch's schedules whose passes are regions for a profiler."""

    def forward_one_chunk(self, fwd_chunk_id: int, *arguments: Any, **settings: Any) -> Any:
        with passing("forward", fwd_chunk_id, self.stage_index):
            return super().forward_one_chunk(fwd_chunk_id, *arguments, **settings)

    def backward_one_chunk(self, bwd_chunk_id: int, *arguments: Any, **settings: Any) -> Any:
        with passing("backward", bwd_chunk_id, self.stage_index):
            return super().backward_one_chunk(bwd_chunk_id, *arguments, **settings)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *arguments: Any, **settings: Any) -> Any:
        with passing("weights", bwd_chunk_id, self.stage_index):
            return super().backward_weight_one_chunk(bwd_chunk_id, *arguments, **settings)


class United(nn.Module):
    """The parameters and buffers of several parts of a model, under the model's names; of copies only the first one."""

    def __init__(self, parts: Sequence[LongcatModel], written: Callable[[], None]) -> None:
        """Take over the parameters of parts; `written` is called when a checkpoint has been read into them."""
        super().__init__()
        self.config: ModelConfig = parts[0].config
        for part in parts:
            for path, module in part.named_modules():
                holder = holder_at(self, path)
                for name, parameter in module.named_parameters(recurse=False):
                    if name not in dict(holder.named_parameters(recurse=False)):
                        holder.register_parameter(name, parameter)
                for name, buffer in module.named_buffers(recurse=False):
                    holder.register_buffer(name, buffer)
        self.register_load_state_dict_post_hook(lambda *_: written())


class PipelineModel:
    """A model of which each process computes some layers; see `ParallelModel`.

    Both copies of the word embedding get the sum of their gradients, once a step, and so move alike.
    """

    def __init__(
        self,
        sharded: Sequence[Sharded],
        mesh: ProcessMesh,
        compute: torch.dtype,
        schedule: Schedule,
        tables: SpreadTables | None = None,
    ) -> None:
        """Connect this process' stages to those of the others. Collective.

        Args:
            sharded: its stages, in the order of the model, with their weights.
            mesh: this process' place among the others.
            compute: type that hidden states travel in.
            schedule: order in which micro-batches are computed.
            tables: of the first stage, where their rows are spread.
        """
        self.tables = tables
        self._sharded, self._mesh, self._compute, self._order = sharded, mesh, compute, schedule
        self._stages: list[Stage] = [cast(Stage, one.model) for one in sharded]
        grid = mesh.degrees.grid_of("pipeline")
        self._place, self._processes = grid.place(mesh.rank, "pipeline"), mesh.degrees.pipeline
        self._numbers = stages_of(schedule, self._place, self._processes)
        self._count = self._processes * len(self._numbers)
        ranks = grid.group(mesh.rank, "pipeline")
        # hidden states have a group of their own, so as not to queue behind sums
        self._group = mesh.open("hidden states", ranks)
        self._schedule: tuple[object, Any] | None = None
        self._embeddings = [
            cast(nn.Parameter, stage.model.embed_tokens.weight)
            for stage in self._stages
            if stage.model.mtp is not None or stage.part.first
            if stage.model.embed_tokens is not None and stage.config.mtp_num_layers > 0
        ]
        self._embedding_group: dist.ProcessGroup | None = None
        ends = ranks[0], ranks[stage_owner(schedule, self._count - 1, self._processes)]
        if self._stages[0].config.mtp_num_layers > 0 and ends[0] != ends[1]:
            # stages between open a group, too: torch tells groups of the same processes apart by their number
            self._embedding_group = mesh.open("word embedding", ends if mesh.rank in ends else (mesh.rank,))
        self.weights: LongcatModel | United = self._stages[0]
        if len(self._stages) > 1:
            self.weights = United(self._stages, self.write_weights)
        self.copies = frozenset(self._embeddings if self._embedding_group is not None and self._place else ())
        """Parameters of this process that another one has too, and counts."""

    @property
    def parts(self) -> list[LongcatModel]:
        """The parts of the model that this process computes, in their order."""
        return list(self._stages)

    def gather(self) -> None:
        """Gather what stays gathered after a forward pass; `reshard` frees it."""
        for sharded in self._sharded:
            sharded.gather()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for stage in self._stages:
            stage.zero_grad()
        if self.tables is not None:
            self.tables.drop_gradient()

    def accumulate(self, batch: Sequence[MicroBatch], phase: Phase, learn: Learn) -> None:
        """Compute the gradients of a step, see `AllLayers.accumulate`. Collective.

        Raises:
            ValueError: micro-batches differ in size, or are too few for the schedule.
        """
        schedule = self._scheduled(batch)
        for stage in self._stages:
            stage.begin(batch, phase, learn)
        schedule.step(target=torch.zeros(len(batch)), return_outputs=False)
        for stage in self._stages:
            stage.end()
        if self.tables is not None:
            self.tables.finish()
        self._sum_embeddings()

    def evaluate(self, batch: Sequence[MicroBatch], phase: Phase, learn: Learn) -> None:
        """Compute loss terms without gradients, see `AllLayers.evaluate`. Collective."""
        sending: list[dist.Work] = []
        for number, rows in enumerate(batch):

            def compute(stage: Stage, before: Tensor | None, number: int = number, rows: MicroBatch = rows) -> Tensor:
                found = stage(
                    rows.tokens,
                    rows.targets,
                    phase=phase,
                    documents=rows.documents,
                    padding=rows.padding,
                    before=before,
                )
                sums = found.sums if isinstance(found, Onward) else found
                learn(number, sums, stage.part.layers)
                return found.hidden if isinstance(found, Onward) else sums.language_model

            sending += self._pass_on(compute, self._own_hidden(rows.tokens))[1]
        for work in sending:
            work.wait()

    def sample(self, prompt: list[int], count: int) -> list[int]:
        """Continue a prompt by `count` tokens, the likeliest one each time; the model is gathered. Collective."""
        caches = {stage: stage.new_cache() for stage in self._stages}
        tokens = torch.tensor([prompt], device=self._mesh.device)
        last = stage_owner(self._order, self._count - 1, self._processes)
        found: list[int] = []
        with torch.inference_mode():
            for _ in range(count):

                def compute(stage: Stage, before: Tensor | None, tokens: Tensor = tokens) -> Tensor:
                    cache: Cache = caches[stage]
                    return cast(Tensor, stage(tokens, cache=cache, last_only=True, before=before))

                output, sending = self._pass_on(compute, self._hidden(*tokens.shape))
                tokens = tokens.new_zeros(1, 1)
                if output is not None:
                    tokens += output[0, -1].argmax()
                for work in sending:
                    work.wait()
                dist.broadcast(tokens, group=self._group, group_src=last)
                found.append(int(tokens))
        return found

    def write_weights(self) -> None:
        """Give a copy of the word embedding in the same process what the optimizer has made of the first one."""
        if len(self._embeddings) == 2:
            first, copy = self._embeddings
            with torch.no_grad():
                _local(copy).copy_(_local(first))

    def _sum_embeddings(self) -> None:
        """Add up the gradients of the copies of the word embedding. Collective, where they are in two processes."""
        learning = [of for of in self._embeddings if of.requires_grad]
        for weight in learning:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if len(learning) == 2:
            first, copy = learning
            first.grad, copy.grad = cast(Tensor, first.grad) + cast(Tensor, copy.grad), None
        elif learning and self._embedding_group is not None:
            dist.all_reduce(_local(cast(Tensor, learning[0].grad)), group=self._embedding_group)

    def _own_hidden(self, tokens: Tensor) -> Tensor:
        """Room for the hidden states of this process' own tokens of some rows."""
        rows, length = tokens.shape
        return self._hidden(rows, length // self._mesh.row_processes)

    def _hidden(self, rows: int, length: int) -> Tensor:
        width = self._stages[0].config.hidden_size
        return torch.empty(rows, length, width, dtype=self._compute, device=self._mesh.device)

    def _pass_on(
        self, compute: Callable[[Stage, Tensor | None], Tensor], room: Tensor
    ) -> tuple[Tensor | None, list[dist.Work]]:
        """Let hidden states go through the stages of all processes.

        Args:
            compute: calls a stage with the output of the one before it.
            room: of the shape and type of hidden states.

        Returns:
            The output of the last stage where it is, and what is still being sent.
        """
        sending: list[dist.Work] = []
        output: Tensor | None = None
        for stage, number in zip(self._stages, self._numbers, strict=True):
            before = None
            if number:
                source = stage_owner(self._order, number - 1, self._processes)
                before = output
                if source != self._place:
                    before = torch.empty_like(room)
                    dist.recv(before, group=self._group, group_src=source)
            output = compute(stage, before)
            if number + 1 < self._count:
                target = stage_owner(self._order, number + 1, self._processes)
                if target != self._place:
                    work = dist.isend(output.contiguous(), group=self._group, group_dst=target)
                    assert work is not None
                    sending.append(work)
        return (output if self._stages[-1].part.last else None), sending

    def _scheduled(self, batch: Sequence[MicroBatch]) -> Any:
        """The schedule for as many micro-batches of this size; connected anew where they have changed. Collective then."""
        shapes = {rows.tokens.shape for rows in batch}
        if len(shapes) > 1:
            raise ValueError(f"the micro-batches of a pipeline have different shapes: {sorted(shapes)}")
        key = len(batch), *shapes
        if self._schedule is None or self._schedule[0] != key:
            self._schedule = key, self._connect(len(batch), self._own_hidden(batch[0].tokens))
        return self._schedule[1]

    def _connect(self, micro_batches: int, hidden: Tensor) -> Any:
        # torch learns from these what is sent; else it would run every stage once more to find out
        losses = torch.zeros((), device=self._mesh.device)
        between = hidden.requires_grad_(), losses.clone().requires_grad_()
        stages = [
            _Marked(
                stage,
                number,
                self._count,
                self._mesh.device,
                input_args=() if stage.part.first else between,
                output_args=losses if stage.part.last else between,
                group=self._group,
                dw_builder=_whole_backward if stage.part.last or stage.model.recomputation != "none" else None,
            )
            for stage, number in zip(self._stages, self._numbers, strict=True)
        ]

        def loss(total: Tensor, _: Tensor) -> Tensor:
            return total

        if self._order == "1f1b":
            return Schedule1F1B(stages[0], micro_batches, loss, scale_grads=False)
        of = ScheduleInterleaved1F1B if self._order == "interleaved" else ScheduleZBVZeroBubble
        return of(list(stages), micro_batches, loss, scale_grads=False)


def _whole_backward() -> Callable[[], None]:
    """Leave nothing of a backward pass for later: it computes the gradients of weights together with those of inputs.

    A zero bubble takes them apart, for which each is computed once from a graph. On the last stage that cannot be: the loss
    makes the head's gradient together with that of its input, and depths of multi-token prediction share their weights.
    What is recomputed would be recomputed for each weight by itself.
    """
    return lambda: None


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
