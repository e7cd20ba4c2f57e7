"""`Pipeline`: a codec and a model together are a model of the same kind in data units.

It takes Examples, tensors or arrays in data units, checks that they fit, encodes them batch by batch, and gives back
log-likelihoods and samples in data units. It is what `jensen.fit` and `jensen.load` return.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jensen.data.binarise import at_step
from jensen.data.codec import Affine
from jensen.data.examples import Batch, Examples, as_examples
from jensen.data.space import Levels, Space
from jensen.errors import InputError, did_you_mean
from jensen.likelihood import LogLikelihood, concatenate
from jensen.models.context import Context, class_codes
from jensen.models.dequantised import Dequantised
from jensen.models.latents import Latents
from jensen.models.model import (
    ClassConditional,
    ClassGiven,
    ClosedForm,
    ComponentModel,
    Conditioner,
    DensityModel,
    Imputer,
    Model,
    enough_rows,
    keywords,
)
from jensen.noise import Noise
from jensen.training.fitter import Rows

TOLERANCE = 0.01
PILOT_ROWS = 64
LARGEST_SAMPLE = 1 << 30  # cells: 8 GiB in float64
Data = Examples | Tensor | np.ndarray[Any, Any]
DTYPES = {str(t).removeprefix("torch."): t for t in (torch.uint8, torch.uint16, torch.float32, torch.float64)}


class Encoded:
    """Rows in a model's units and on its device, encoded when they are asked for.

    Models that compute in float64 get float64, so that no digit of the data is lost before an exact score; the data stay as they
    are, and only what is asked for takes the double. Networks compute in float32.

    Args:
        rows: in data units.
        codec: data units → model units.
        model: the model.
        fitting: whether the model is to learn from them, which some do in float32 where the data are.
    """

    def __init__(self, rows: Rows, codec: Affine, model: Model, *, fitting: bool = False) -> None:
        self.rows, self.codec, self.model = rows, codec, model
        exact = isinstance(model, ClosedForm) and not (fitting and model.fits_in_float32)
        self.dtype = torch.float64 if exact else None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor | slice) -> Batch:
        """The rows at these positions."""
        return self._encoded(self.rows.batch(indices))

    def fresh(self, indices: Tensor | slice, noise: Noise) -> Batch:
        """The rows at these positions, drawn anew where they are such rows."""
        return self._encoded(at_step(self.rows, indices, noise))

    def _encoded(self, batch: Batch) -> Batch:
        encoded = Batch(self.codec.encode(batch.x, self.dtype), batch.id, batch.context, batch.weight)
        return encoded.to(self.model.device)


class Pipeline:
    """A fitted model in data units.

    Args:
        codec: data units ↔ model units.
        model: the model.
        space: of the data, in data units.
        dtype: of the data.
        config: all that is needed to rebuild it, as in a run's config.json.
    """

    def __init__(self, codec: Affine, model: Model, space: Space, dtype: torch.dtype, config: dict[str, Any]) -> None:
        self.codec, self.model, self.space, self.dtype, self.config = codec, model, space, dtype, config

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a row."""
        return self.model.event_shape

    def encoded(self, data: Data, *, fitting: bool = False) -> Encoded:
        """Rows that fit this model, in its units; see `Encoded`."""
        return Encoded(self.check(data), self.codec, self.model, fitting=fitting)

    def check(self, data: Data) -> Examples:
        """The data as Examples; what does not fit the model is refused by name."""
        examples = as_examples(data)
        if len(examples) == 0:
            raise InputError("there are no rows to score; give at least one")
        if examples.event_shape != self.event_shape:
            resizing = " (--size HxW resizes the images of a folder)" if examples.names is not None else ""
            raise InputError(
                f"rows have shape {examples.event_shape}, the model was fitted to {self.event_shape}; "
                f"give data of that shape{resizing}"
            )
        if isinstance(self.space, Levels) and not self._holds_levels(examples.x):
            raise InputError(
                f"values are {str(examples.x.dtype).removeprefix('torch.')}, the model was fitted to {self.space} "
                "(whole numbers); give uint8 or uint16 data, or floats only where cells are missing (NaN)"
            )
        if not isinstance(self.space, Levels) and not examples.x.dtype.is_floating_point:
            raise InputError(
                f"values are {examples.x.dtype}, the model was fitted to real values; convert them to float32"
            )
        _check_values(examples.x, self.space, self.model.accepts_missing)
        return examples

    def _holds_levels(self, x: Tensor) -> bool:
        """Whether values may be levels: whole-number types, or floats where the model was fitted to such or a cell is
        missing. Complete floats are more likely to be on another scale.
        """
        floats = x.dtype.is_floating_point
        return not floats or self.dtype.is_floating_point or bool(x.isnan().any())

    def log_likelihood(
        self,
        data: Data,
        context: Context | None = None,
        *,
        method: str | None = None,
        seed: int = 0,
        tolerance: float | None = None,
        batch_size: int = 512,
        on_start: Callable[[int], None] = lambda rows: None,
        on_calls: Callable[[int], None] = lambda calls: None,
        **options: Any,
    ) -> LogLikelihood:
        """log p(x) of each row, in nats, in data units.

        Args:
            data: Examples, tensor or array `(B, *event_shape)` in data units.
            context: the classes of the rows, for models that take classes (`ClassConditional`): one for all or one for
                each, codes or names. The value is then log p(x | y). Classes that Examples bring along are used where the
                model has no other likelihood (`ClassGiven`).
            method: how; the model's first method if None.
            seed: of all Monte-Carlo draws.
            tolerance: the Monte-Carlo standard error wanted for the mean, in bits/dim for masses and nats/dim for
                densities (0.01 if None); a pilot fixes the number of draws.
            batch_size: rows at a time; it never changes a value.
            on_start: told how many network rows there will be, once that is known.
            on_calls: told how many of them each call did.
            **options: the method's own, such as `repetitions` and `calls`.

        Raises:
            InputError: the data do not fit the model, or the model has no likelihood.
        """
        model, rows = self.density(), self.check(data)
        classes = self._classes(context, rows)
        _check_batch_size(batch_size)
        if tolerance is not None and not tolerance > 0:
            raise InputError(f"tolerance must be positive, got {tolerance}")
        model.method_or_default(method)
        refuse_unknown(
            options, keywords(model.log_likelihood, ("method", "ids", "seed", "on_calls")), "this model's likelihood"
        )
        encoded = Encoded(rows, self.codec, self.model)
        few = enough_rows(self.event_shape, PILOT_ROWS)
        order = Noise(seed, "pilot").permutation(len(rows))[:few]
        pilot = encoded.batch(order)
        nats = (TOLERANCE if tolerance is None else tolerance) * self.nats_per_unit
        pilot = replace(pilot, context=None if classes is None else classes[order].to(pilot.x.device))
        plan = model.plan(pilot, len(rows), method=method, tolerance=nats, seed=seed, **options)
        on_start(len(rows) * model.cost(plan, method))
        parts = []
        for start in range(0, len(rows), batch_size):
            batch = encoded.batch(slice(start, start + batch_size))
            y = None if classes is None else classes[start : start + batch_size].to(batch.x.device)
            ll = model.log_likelihood(batch.x, y, method=method, ids=batch.id, seed=seed, on_calls=on_calls, **plan)
            if ll.measure == "Lebesgue":
                ll = ll.shifted("units", self.codec.log_abs_det(rows.x[start : start + batch_size]))
            parts.append(ll)
        missing = int((~rows.batch(slice(None)).mask).sum()) if rows.x.is_floating_point() else 0
        return replace(concatenate(parts, rows=rows.digest()), missing=missing, protocol=rows.protocol)

    def sample(
        self, n: int, context: Context | None = None, *, seed: int = 0, batch_size: int | None = None, **options: Any
    ) -> Tensor:
        """Draw n new rows: same dtype, shape and range as the training data; the batch size does not change them.

        Args:
            n: how many.
            context: the classes to draw from, for models that take classes: one for all or one for each, codes or names.
            seed: of the draws.
            batch_size: rows at a time.
            **options: the model's own.
        """
        self._refuse_context(context)
        if batch_size is not None:
            _check_batch_size(batch_size)
        if not isinstance(n, int) or n < 1:
            raise InputError(f"the number of samples must be a whole number from 1, got {n}")
        refuse_unknown(options, keywords(self.model.sample, ("seed", "start")), "sampling from this model")
        if n * math.prod(self.event_shape) > LARGEST_SAMPLE:
            raise InputError(
                f"{n} samples of shape {self.event_shape} do not fit in memory; draw fewer at a time, with other seeds"
            )
        size = batch_size or self.sampling_batch()
        classes = None if context is None else self.codes(context, n)
        parts = []
        for start in range(0, n, size):
            y = None if classes is None else classes[start : start + size].to(self.model.device)
            parts.append(self.decode(self.model.sample(min(size, n - start), y, seed, start=start, **options)))
        return torch.cat(parts)

    def codes(self, context: Context, rows: int) -> Tensor:
        """Classes as codes `(rows,)`, checked.

        Raises:
            InputError: the model takes no classes, or they are none of its own.
        """
        self._refuse_context(context)
        assert isinstance(self.model, ClassConditional)
        names = self.config["data"].get("class_names") or ()
        return class_codes(context, rows, self.model.n_classes, names)

    def _classes(self, context: Context | None, rows: Examples) -> Tensor | None:
        """The classes to score rows in: those given; of a model that needs them the rows' own."""
        if context is not None:
            return self.codes(context, len(rows))
        if not isinstance(self.model, ClassGiven):
            return None
        if rows.context is None:
            raise InputError(
                "this model gives log p(x | y) and needs the class of every row; give rows with classes (a table's column by --label, a "
                "folder of images a class), or in Python context=…"
            )
        return self.codes(rows.context, len(rows))

    def _refuse_context(self, context: Context | None) -> None:
        if context is not None and not isinstance(self.model, ClassConditional):
            raise InputError("this model is unconditional and takes no context; leave it out")

    @property
    def latents(self) -> Latents:
        """What can be done with the codes of rows.

        Raises:
            InputError: the model has none.
        """
        return Latents(self)

    @property
    def classifies(self) -> bool:
        """Whether the model's components are the classes of the data, so that `responsibilities` are p(y | x)."""
        return isinstance(self.model, ClassConditional) and isinstance(self.model, ComponentModel)

    @property
    def components(self) -> ComponentModel | None:
        """The model, or the density it dequantises, if its latent is one of K components; else None."""
        inner = self.model.model if isinstance(self.model, Dequantised) else self.model
        return inner if isinstance(inner, ComponentModel) else None

    def responsibilities(self, data: Data, *, seed: int = 0, batch_size: int = 4096) -> Tensor:
        """p(component | row) of each row, `(B, K)`, for models with components; NaN in a row of probability 0.

        Raises:
            InputError: the data do not fit, or the model has no components.
        """
        model, rows = self.model, self.check(data)
        if self.components is None:
            raise InputError(f"{type(model).__name__} has no components to assign rows to; fit a mixture such as gmm")
        encoded, parts = self.encoded(rows), []
        for start in range(0, len(rows), batch_size):
            batch = encoded.batch(slice(start, start + batch_size))
            if isinstance(model, Dequantised):
                parts.append(model.responsibilities(batch.x, ids=batch.id, seed=seed))
            else:
                assert isinstance(model, ComponentModel)
                parts.append(model.responsibilities(batch.x))
        return torch.cat(parts).cpu()

    def class_log_probabilities(self, data: Data, *, batch_size: int = 4096) -> Tensor:
        """log p(y | x) of each row, `(B, K)` float64, for models of rows and classes; `responsibilities` are its exponential,
        where those of unlikely classes may be 0. NaN in a row that is impossible in every class: nothing is known of its class.

        Raises:
            InputError: the data do not fit, or the model has no classes.
        """
        model, encoded = self.model, self.encoded(data)
        if not (isinstance(model, ClassConditional) and isinstance(model, ComponentModel)):
            raise InputError(f"{type(model).__name__} knows no classes; fit naive-bayes to data with labels")
        starts = range(0, len(encoded), batch_size)
        parts = [model.log_joint(encoded.batch(slice(i, i + batch_size)).x).log_softmax(1) for i in starts]
        return torch.cat(parts).cpu()

    def impute(
        self, data: Data, draws: int | None = None, *, seed: int = 0, batch_size: int = 4096
    ) -> Float[Tensor, "..."]:
        """Missing cells (NaN) filled in, in data units; observed cells come back bit for bit.

        Args:
            data: rows `(B, *event_shape)`.
            draws: None for the mean of the missing cells given the observed ones; a number for that many random draws.
            seed: of the draws.
            batch_size: rows at a time; it never changes a value.

        Returns:
            `(B, *event_shape)`, or `(draws, B, *event_shape)`, of the given rows' dtype: floats, since the mean of a
            level need not be a level.

        Raises:
            InputError: the data do not fit, or the model cannot fill in cells.
        """
        model, rows = self.model, self.check(data)
        if not isinstance(model, Imputer):
            word = self.config["model"]["word"]
            raise InputError(
                f"a {word!r} model of {self.space} does not fill in missing cells; gmm does on real values, kde and hmm on either"
            )
        if (draws or 1) * rows.x.numel() > LARGEST_SAMPLE:
            raise InputError(f"{draws} draws of {len(rows)} rows do not fit in memory; ask for fewer, with other seeds")
        encoded, parts = self.encoded(rows), []
        for start in range(0, len(rows), batch_size):
            batch = encoded.batch(slice(start, start + batch_size))
            filled = self.codec.decode(model.impute(batch.x, draws, ids=batch.id, seed=seed).cpu())
            given = rows.x[start : start + batch_size]
            dtype = given.dtype if given.is_floating_point() else torch.float64
            parts.append(torch.where(batch.mask.cpu(), given.to(dtype), filled.to(dtype)))
        return torch.cat(parts, dim=0 if draws is None else 1)

    def conditional(self, values: Mapping[int | str, float]) -> "Pipeline":
        """p(the other columns | these columns), exact, as a pipeline of its own in data units.

        Args:
            values: column → value in data units; a column is its number or, where the data had a header, its name.

        Returns:
            A pipeline whose rows are the columns that are left, in their order.

        Raises:
            InputError: an unknown column, a value that is no number, all columns or none; a model that cannot.
        """
        if not isinstance(self.model, Conditioner):
            word, drawn = self.config["model"]["word"], isinstance(self.model, Imputer)
            raise InputError(
                f"a {word!r} model of {self.space} has no exact conditionals; gmm has them on real values, kde on either"
                + ("; impute with draws samples those of this one" if drawn else "")
            )
        names = self.config["data"]["facts"].get("columns") or []
        given = {_column(key, names): float(value) for key, value in values.items()}
        dims = math.prod(self.event_shape)
        if isinstance(self.space, Levels):
            _check_values(torch.tensor(list(given.values())), self.space, accepts_missing=False)
        shift, scale = (t.expand(self.event_shape).flatten() for t in (self.codec.shift, self.codec.scale))
        model = self.model.conditional(
            {c: (v - float(shift[c])) / float(scale[c]) if 0 <= c < dims else v for c, v in given.items()}
        )
        left = [c for c in range(dims) if c not in given]
        codec = self.codec if isinstance(self.space, Levels) else Affine(shift[left], scale[left])
        facts = {**self.config["data"]["facts"], "columns": [names[c] for c in left] if names else None}
        facts["source"] = "array"  # its rows are those of no file
        data = {**self.config["data"], "event_shape": [len(left)], "facts": facts}
        settled = model.resolved() if isinstance(model, ClosedForm) else {}
        own = {**self.config["model"], "options": {**self.config["model"]["options"], **settled}}
        config = {**self.config, "data": data, "model": own, "codec": codec.to_dict()}
        return Pipeline(codec, model, self.space, self.dtype, config)

    def sampling_batch(self) -> int:
        """How many samples to draw at a time: 64 images of 32 × 32, more of anything smaller."""
        return max(16, 65536 // math.prod(self.event_shape))

    def decode(self, y: Tensor) -> Tensor:
        """Model units → data units and dtype."""
        x = self.codec.decode(y.cpu())
        if isinstance(self.space, Levels):
            x = self.space.index(x).to(torch.float64)
        return x.to(self.dtype)

    def save(self, path: str | Path) -> None:
        """Write config.json and model.safetensors into a folder that `jensen.load` reads."""
        from jensen.training.run import Run

        run = Run(path)
        if run.start({"saved": True}, overwrite=False) is not None:
            raise InputError(f"{str(path)!r} holds a saved model already; choose another folder")
        run.write_config({**self.config, "request": {"saved": True}})
        run.write_model(self.model.state_dict())

    def density(self) -> DensityModel:
        """The model, if it has a likelihood."""
        if not isinstance(self.model, DensityModel):
            why = f": {self.model.without_likelihood}" if self.model.without_likelihood else ""
            raise InputError(
                f"{type(self.model).__name__} has no likelihood{why}; --method samples measures its samples"
            )
        return self.model

    @property
    def nats_per_unit(self) -> float:
        """Nats a row in a bit a dimension of masses, in a nat a dimension of densities."""
        dims = math.prod(self.event_shape)
        return dims * math.log(2) if isinstance(self.space, Levels) else float(dims)


def _column(key: int | str, names: list[str]) -> int:
    """A column's number."""
    if isinstance(key, int):
        return key
    if key not in names:
        near = did_you_mean(key, names)
        raise InputError(f"there is no column {key!r}; {near}columns are {', '.join(names) or 'known by number only'}")
    return names.index(key)


def _check_batch_size(size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise InputError(f"batch_size must be a whole number from 1, got {size}")


def refuse_unknown(options: Mapping[str, Any], known: list[str], what: str) -> None:
    """Refuse an option that is none of those known."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        near = did_you_mean(unknown[0], known)
        listed = f"known are {', '.join(known)}" if known else "there are none"
        raise InputError(f"{what} has no option {unknown[0]!r}; {near}{listed}; leave it out")


def _check_values(x: Tensor, space: Space, accepts_missing: bool) -> None:
    if isinstance(space, Levels):
        odd = x.new_zeros((), dtype=torch.bool)
        if x.dtype.is_floating_point:
            odd = (x < 0) | (x != x.floor()) & ~x.isnan()
        odd = odd | (x.to(torch.float32) >= space.k)
        if bool(odd.any()):
            value = float(x.to(torch.float32)[odd][0])
            raise InputError(
                f"a value is {value:g}, the model was fitted to {space} (0 to {space.k - 1}); rescale the data"
            )
    elif bool(torch.isinf(x).any()):
        raise InputError("a value is infinite; densities need finite values: remove or replace such rows")
    missing = int(torch.isnan(x).sum()) if x.dtype.is_floating_point else 0
    if missing and not accepts_missing:
        raise InputError(
            f"{missing} cells are missing (NaN), and this model needs complete rows; drop or fill such rows"
        )
