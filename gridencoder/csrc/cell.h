// The cell around a point and the weights of its corners: the maths of the encoding, for numbers and for vectors of
// them.
//
// No include guard: each user includes it inside a namespace of its own, so that it is compiled for that instruction
// set. Before it: F (float or a vector), U (uint32_t or a vector), F rounded_product(float, F) (never fused into a
// later sum), U to_node(F) (towards zero), F to_float(U), U wrap(Level, U) (a combined index to a row).

// Along each axis: the lower and the upper node's share of the index, and the interpolation weight of the upper node
// with its first and second derivative in x.
template <int D>
struct Cell {
  U node[2][D];
  F weight[D];
  F slope[D];
  F curve[D];
};

template <int D>
HOST_DEVICE Cell<D> locate(const Grid& grid, const Level& level, const F* x) {
  Cell<D> cell;
  const F zero = F{};
  const F top = zero + static_cast<float>(level.resolution - 1);
  for (int d = 0; d < D; ++d) {
    const F q = rounded_product(level.scale, x[d]) - grid.shift;
    const auto moves = (q >= zero) & (q <= top);  // beyond the outermost nodes the value is constant
    F clamped = q > zero ? q : zero;
    clamped = clamped < top ? clamped : top;
    F base = to_float(to_node(clamped));
    base = base < top - 1.f ? base : top - 1.f;  // the last node belongs to the cell before it
    const F t = clamped - base;
    const F scale = moves ? zero + level.scale : zero;
    if (grid.smoothstep) {
      cell.weight[d] = t * t * (3.f - 2.f * t);
      cell.slope[d] = 6.f * t * (1.f - t) * scale;
      cell.curve[d] = (6.f - 12.f * t) * scale * scale;
    } else {
      cell.weight[d] = t;
      cell.slope[d] = scale;
      cell.curve[d] = zero;
    }
    cell.node[0][d] = to_node(base) * level.multiplier[d];
    cell.node[1][d] = cell.node[0][d] + level.multiplier[d];
  }
  return cell;
}

// The row, within its level, of the corner that is upper along axis d where bit d of `corner` is set.
template <int D>
HOST_DEVICE U corner_row(const Level& level, const Cell<D>& cell, int corner) {
  U index = cell.node[corner & 1][0];
  if (level.hash) {
    for (int d = 1; d < D; ++d) index = index ^ cell.node[(corner >> d) & 1][d];
  } else {
    for (int d = 1; d < D; ++d) index = index + cell.node[(corner >> d) & 1][d];
  }
  return wrap(level, index);
}

// The weights of all corners, products over the axes; differentiated in `axis` where that is >= 0, and along
// `direction` where Directional: products of dual numbers, whose derivative parts are returned.
template <int D, bool Directional>
HOST_DEVICE void corner_weights(const Cell<D>& cell, const F* direction, int axis, F* weights) {
  F tangent[1 << D];
  weights[0] = F{} + 1.f;
  tangent[0] = F{};
  for (int d = 0; d < D; ++d) {
    F upper = cell.weight[d], lower = 1.f - cell.weight[d], slope = cell.slope[d];
    if (d == axis) {
      upper = cell.slope[d];
      lower = -upper;
      slope = cell.curve[d];
    }
    for (int k = 0; k < 1 << d; ++k) {
      const int far = k + (1 << d);
      if (Directional) {
        const F change = weights[k] * (direction[d] * slope);
        tangent[far] = tangent[k] * upper + change;
        tangent[k] = tangent[k] * lower - change;
      }
      weights[far] = weights[k] * upper;
      weights[k] = weights[k] * lower;
    }
  }
  if (Directional) {
    for (int k = 0; k < 1 << D; ++k) weights[k] = tangent[k];
  }
}
