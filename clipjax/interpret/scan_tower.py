"""Runs one tower of a model with its taps open, in batches whose views are averaged."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from clipjax.config import DualEncoderConfig
from clipjax.core.mesh import batch_sharding, local_rows, put_rows, replicated
from clipjax.interpret.facets import Tower
from clipjax.interpret.scan_order import ScanBatch
from clipjax.models import with_params
from clipjax.models.taps import Reduction, tapped
from clipjax.models.text_lengths import deciding_tokens
from clipjax.models.units import unit_paths

Params = Mapping[str, jax.Array]

FINITE = np.iinfo(np.int32).max
_MULTIPLE = 8  # of tokens: texts are cut to it


def tower_paths(config: DualEncoderConfig, tower: Tower, patterns: Sequence[str]) -> dict[str, int]:
    """Returns width by path of the units of a tower that patterns name, the shared ones included.

    Args:
        config: of the model.
        tower: its paths begin with this.
        patterns: with `*`.

    Raises:
        UserError: if a pattern fits nothing of the model, naming the nearest path.
    """
    found = unit_paths(config, patterns)
    other = {"image": "text/", "text": "image/"}[tower]
    return {path: width for path, width in found.items() if not path.startswith(other)}


class ScanTower:
    """Activations of the units of a tower, one row a stimulus, split over the devices by unit.

    Args:
        config: of the model.
        tower: which one.
        paths: width of each path that is read.
        pool: how places become one number.
        mesh: that the batch is split over.
        batch_size: samples of a batch.
        joins: whether a stimulus may have several views.

    Attributes:
        local_rows: samples of a batch that this process reads.
        units: over all paths.
        padded: the next number that the devices divide.
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        tower: Tower,
        paths: Mapping[str, int],
        *,
        pool: Reduction,
        mesh: jax.sharding.Mesh,
        batch_size: int,
        joins: bool,
    ):
        self._config, self._tower, self.paths = config, tower, dict(paths)
        self._mesh, self.batch_size = mesh, batch_size
        self.local_rows = local_rows(mesh, batch_size)
        self.units = sum(paths.values())
        self.padded = -(-self.units // mesh.size) * mesh.size
        self._read = dict.fromkeys(paths, pool)
        split, whole = batch_sharding(mesh), replicated(mesh)
        by_column = PartitionSpec(None, mesh.axis_names)
        by_unit = PartitionSpec(mesh.axis_names)
        places = NamedSharding(mesh, by_column), NamedSharding(mesh, by_unit)
        self._zero = jax.jit(lambda: jnp.zeros(self.padded), out_shardings=places[1])
        self._finished = jax.shard_map(
            functools.partial(_finished, axes=mesh.axis_names, joins=joins),
            mesh=mesh,
            in_specs=(by_column, *3 * [PartitionSpec()], by_unit),
            out_specs=(by_column, by_unit, PartitionSpec()),
            check_vma=False,
        )
        self._run = jax.jit(
            self._forward,
            in_shardings=(None, split, whole, whole, whole, places[1]),
            out_shardings=(*places, whole),
        )

    def start(self) -> jax.Array:
        """Returns what is carried into the first batch."""
        return self._zero()

    def __call__(
        self, params: Params, x: np.ndarray, batch: ScanBatch, carried: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Runs a batch.

        Args:
            params: of the model.
            x: the samples of this process, see `local_rows`.
            batch: what they are.
            carried: from the batch before.

        Returns:
            Activations [batch, units], each the mean over the views so far, what is carried into
            the next batch, and sample * `padded` + unit of the first that is not finite, or
            `FINITE`.
        """
        valid = batch.samples >= 0
        with jax.set_mesh(self._mesh):
            images = put_rows(x, self.local_rows, self.batch_size, self._mesh)
            return self._run(params, images, valid, batch.begins, batch.views, carried)

    def _forward(
        self,
        params: Params,
        x: Array,
        valid: Bool[Array, " batch"],
        begins: Bool[Array, " batch"],
        views: Int[Array, " batch"],
        carried: Float[Array, " units"],
    ) -> tuple[Float[Array, "batch units"], Float[Array, " units"], Int[Array, ""]]:
        model = with_params(self._config, params)
        encode = model.encode_image if self._tower == "image" else model.encode_text
        _, reads = tapped(encode, read=self._read)(x)
        missing = jnp.zeros((len(x), self.padded - self.units))
        columns = [reads[path].astype(jnp.float32) for path in self.paths]
        units = jnp.concatenate([*columns, missing], axis=1)
        return self._finished(units, valid, begins, views, carried)


def text_length(config: DualEncoderConfig, tokens: Int[np.ndarray, "texts tokens"]) -> int:
    """Returns to how many tokens texts can be cut, so that no activation that counts changes."""
    most = int(deciding_tokens(config.text, tokens).max(initial=1))
    return min(-(-most // _MULTIPLE) * _MULTIPLE, config.text.context_length)


def _finished(
    units: Float[Array, "batch units"],
    valid: Bool[Array, " batch"],
    begins: Bool[Array, " batch"],
    views: Int[Array, " batch"],
    carried: Float[Array, " units"],
    *,
    axes: tuple[str, ...],
    joins: bool,
) -> tuple[Float[Array, "batch units"], Float[Array, " units"], Int[Array, ""]]:
    """What each device does with its units; see `ScanTower.__call__`."""
    units = jnp.where((units == 0) | ~valid[:, None], 0.0, units)  # no -0.0
    width = units.shape[1]
    first, total = jax.lax.axis_index(axes) * width, jax.lax.axis_size(axes) * width
    places = jnp.arange(len(units))[:, None] * total + first + jnp.arange(width)
    bad = jnp.where(jnp.isfinite(units), FINITE, places).min()
    if joins:
        units, carried = _joined(units, begins, views, carried)
    return units, carried, jax.lax.pmin(bad, axes)


def _joined(
    units: Float[Array, "batch units"],
    begins: Bool[Array, " batch"],
    views: Int[Array, " batch"],
    carried: Float[Array, " units"],
) -> tuple[Float[Array, "batch units"], Float[Array, " units"]]:
    """Returns sums over the views so far, divided by all views, and the last sum."""

    def step(total: Array, sample: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        one, is_first, of = sample
        total = jnp.where(is_first, 0.0, total) + one
        return total, total / of

    # One behind the other: any other order of sums would depend on where batches begin.
    carried, units = jax.lax.scan(step, carried, (units, begins, views), unroll=8)
    return units, carried
