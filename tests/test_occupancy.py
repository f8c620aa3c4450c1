import pytest
import torch

import scenes
from nerf import occupancy
from nerf.occupancy import OccupancyGrid
from raymarching import morton3D_invert


def bits(grid):
    """The bitfield as booleans in Morton order. [C, H^3]"""
    byte = grid.bitfield.view(grid.cascades, -1, 1).int()
    return ((byte >> torch.arange(8, device=byte.device)) & 1).bool().view(grid.cascades, -1)


def centres(grid, cascade):
    """Middle of each cell in Morton order, from the definition of a cascade. [H^3, 3]"""
    index = torch.arange(grid.resolution**3, dtype=torch.int32)
    half = grid.bound / 2 ** (grid.cascades - 1 - cascade)
    return ((morton3D_invert(index) + 0.5) / grid.resolution * 2 - 1) * half


@pytest.fixture(params=["counted", "not counted"])
def anywhere(request, monkeypatch):
    """As on a CPU, and as where the host would have to wait to know how many cells are occupied."""
    if request.param == "not counted":
        monkeypatch.setattr(occupancy, "_is_counted", lambda mask: False)


def seed(value=0):
    return torch.Generator().manual_seed(value)


def test_everything_is_occupied_before_the_first_update():
    assert bits(OccupancyGrid(1.0, resolution=8)).all()


@pytest.mark.parametrize(("bound", "cascades"), [(0.5, 1), (1.0, 1), (1.5, 2), (2.0, 2), (4.0, 3)])
def test_a_larger_box_has_more_cascades(bound, cascades):
    assert OccupancyGrid(bound, resolution=8).cascades == cascades


@pytest.mark.parametrize("bound", [1.0, 2.0, 1.5])
def test_update_finds_every_dense_cell_and_only_those(bound):
    ball = scenes.Ball(radius=0.6 * bound, bound=bound)
    grid = OccupancyGrid(bound, resolution=16)
    grid.update(ball.density)
    for cascade in range(grid.cascades):
        assert torch.equal(bits(grid)[cascade], ball.density(centres(grid, cascade)) > 0)


def test_random_points_find_every_cell_inside():
    ball = scenes.Ball(radius=0.6)
    grid = OccupancyGrid(1.0, resolution=16)
    grid.update(ball.density, generator=seed())
    cell = 2 / 16
    inside = ball.potential(centres(grid, 0)) > cell  # whole cell inside: half its diagonal is 0.87 cells
    assert bits(grid)[0][inside].all()
    outside = ball.potential(centres(grid, 0)) < -cell
    assert not bits(grid)[0][outside].any()


@pytest.mark.parametrize("warmup", [0, 100])
def test_a_density_that_is_no_number_is_forgotten(warmup):
    grid, ball = OccupancyGrid(1.0, resolution=16, warmup_updates=warmup), scenes.Ball(radius=0.6)
    grid.update(lambda x: ball.density(x).index_fill(0, torch.tensor([5]), torch.nan), generator=seed())
    grid.update(ball.density, generator=seed())
    assert grid.density_grid.isfinite().all() and bits(grid).any()


@pytest.mark.usefixtures("anywhere")
def test_partial_updates_keep_what_is_there_and_find_what_is_new():
    grid = OccupancyGrid(1.0, resolution=16, warmup_updates=1)
    generator = seed()
    first = scenes.Ball(radius=0.3, centre=(0.5, 0.0, 0.0))
    second = scenes.Ball(radius=0.3, centre=(-0.5, 0.0, 0.0))

    def both(x):
        return first.density(x) + second.density(x)

    grid.update(first.density, generator=generator)
    for _ in range(24):  # a cell is missed 24 times with probability 0.75^24 = 0.1 %
        grid.update(both, generator=generator)
    cell = 2 / 16
    assert bits(grid)[0][first.potential(centres(grid, 0)) > cell].all()
    assert bits(grid)[0][second.potential(centres(grid, 0)) > cell].float().mean() > 0.98


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("radius", [0.0, 0.75, 0.9])
def test_a_later_update_looks_at_every_occupied_cell_or_at_a_quarter_drawn_from_them(radius):
    grid, looked = OccupancyGrid(1.0, resolution=16, warmup_updates=1), []
    ball = scenes.Ball(radius=radius) if radius else scenes.Fog(0.0)
    grid.update(ball.density)
    occupied, quarter, generator = bits(grid)[0].nonzero()[:, 0], 16**3 // 4, seed()
    for _ in range(8):
        cells = grid._choose(grid.density_grid[0], generator).long()
        assert torch.equal(cells[:quarter] // 4, torch.arange(quarter))  # one of every four
        looked.append(cells[quarter:])
        assert len(looked[-1]) <= quarter
        if radius < 0.9:
            assert len(occupied) < 0.9 * quarter and set(occupied.tolist()) <= set(looked[-1].tolist())
        else:
            assert len(occupied) > quarter and len(looked[-1]) == quarter
    if radius == 0.9:
        times = torch.bincount(torch.cat(looked), minlength=16**3)
        assert times.sum() == times[occupied].sum()  # of the occupied ones alone
        share = 1 - (1 - 1 / len(occupied)) ** (8 * quarter)  # drawn at least once, with replacement
        assert (times[occupied] > 0).float().mean() == pytest.approx(share, abs=0.03)
        assert not torch.equal(looked[0], looked[1])


def test_a_later_update_looks_at_half_the_cells_at_most():
    looked = []
    ball = scenes.Ball(radius=0.9)

    def density(x):
        looked.append(len(x))
        return ball.density(x)

    grid = OccupancyGrid(1.0, resolution=16, warmup_updates=1)
    grid.update(density, generator=seed())
    grid.update(density, generator=seed())
    assert looked == [16**3, 16**3 // 2]


def test_an_empty_field_has_no_occupied_cell():
    grid = OccupancyGrid(1.0, resolution=8)
    grid.update(scenes.Fog(0.0).density)
    assert not bits(grid).any()


def test_cells_of_a_field_that_has_become_empty_are_given_up():
    grid = OccupancyGrid(1.0, resolution=8, decay=0.5)
    grid.update(scenes.Ball(sigma=100.0).density)
    for _ in range(17):  # 100 * 0.5^17 = 7.6e-4 is below the floor of 1e-3
        grid.update(scenes.Fog(0.0).density)
    assert not bits(grid).any()


def test_density_is_remembered_with_decay():
    grid = OccupancyGrid(1.0, resolution=8, decay=0.5)
    grid.update(scenes.Fog(8.0).density)
    grid.update(scenes.Fog(1.0).density)
    assert torch.all(grid.density_grid == 4.0)
    assert float(grid.mean_density) == 4.0


def test_the_same_seed_gives_the_same_grid():
    ball = scenes.Ball(softness=0.1)
    grids = [OccupancyGrid(1.0, resolution=8, warmup_updates=1) for _ in range(2)]
    for grid in grids:
        generator = seed(7)
        for _ in range(3):
            grid.update(ball.density, generator=generator)
    assert torch.equal(grids[0].density_grid, grids[1].density_grid)


def test_a_grid_continues_from_its_state():
    ball = scenes.Ball(softness=0.1)
    one, other = (OccupancyGrid(1.0, resolution=8, warmup_updates=1) for _ in range(2))
    one.update(ball.density, generator=seed(1))
    other.load_state_dict(one.state_dict())
    for grid in (one, other):
        grid.update(ball.density, generator=seed(2))
    assert torch.equal(one.density_grid, other.density_grid)
    assert torch.equal(one.bitfield, other.bitfield)
    assert int(other.updates) == 2


@pytest.mark.parametrize("options", [{"resolution": 100}, {"decay": 0.0}, {"bound": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="occupancy"):
        OccupancyGrid(**{"bound": 1.0, **options})
