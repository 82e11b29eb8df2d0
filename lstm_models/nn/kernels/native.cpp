// One LSTM layer in one direction, over all time steps: forward, and backward through time. float32, on the CPU.
//
// The equations are those of cells.py, and bptt.py derives the gradient; this file computes them in an order that suits
// a CPU. It needs no PyTorch header and allocates no memory: native.py provides all buffers and calls the two functions
// at the end of this file through ctypes. It is compiled once per instruction set (pyproject.toml). `V`, a vector of W
// floats, fills one register: W is 16 with AVX-512 and 8 with AVX2.
//
// The optimization is register tiling of three matrix products: a TILE of results stays in registers during the
// summation. A tile has up to R rows (sequences of the batch, or units) and up to C vectors (of units or inputs). For
// each index k of the sum, C vectors of weights are loaded, R numbers are broadcast and R * C products are accumulated,
// without writing partial results to memory:
//
//     forward_tile    the pre-activations of the four gates of W units, from x_t and h_{t-1}
//     product_tile    dh_{t-1} and dx_t = dz_t [W_hh, W_ih]
//     outer_tile      [dW_ih, dW_hh] = sum over all steps and sequences of dz^T [x, h_{t-1}]
//
// A sum is split into blocks of BLOCK indices. Each block is processed for all rows, so that the operand that is loaded
// most stays in the L1 cache; it is PACKED, that is, copied into the order in which it is read. In internal buffers, a
// row of H numbers occupies Hp numbers, H rounded up to a multiple of 16; the padding is undefined, in dz it is zero.
//
// Threads divide the sequences of the batch (recursion) or the rows of dW (sum). No result depends on the number of
// threads: one thread computes each number, in a fixed order.

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
constexpr int W = 16, R = 6, C = 4;  // 24 of 32 registers hold the tile
#define MIN _mm512_min_ps
#define MAX _mm512_max_ps
#elif defined(__AVX2__)
constexpr int W = 8, R = 3, C = 4;  // 12 of 16
#define MIN _mm256_min_ps
#define MAX _mm256_max_ps
#else
#error "compile with -mavx512f or -mavx2 -mfma"
#endif

constexpr int BLOCK = 64;  // 16 KB of weights; a sum of many short sums is also more accurate than one long sum

typedef int64_t I;
typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));
typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE V load(const float* from) { return *(const Unaligned*)from; }
INLINE void store(float* to, V value) { *(Unaligned*)to = value; }
INLINE V broadcast(float value) { return value - V{}; }
INLINE constexpr I min_of(I a, I b) { return a < b ? a : b; }
INLINE constexpr I max_of(I a, I b) { return a < b ? b : a; }
INLINE I ceil_div(I a, I b) { return (a + b - 1) / b; }
INLINE I padded(I size) { return ceil_div(size, W) * W; }

// Partial load and store, at the end of an unpadded row, where fewer than W numbers may remain.
INLINE V load(const float* from, I remaining) {
  if (remaining >= W) return load(from);
  float full[W] = {};
  for (I k = 0; k < remaining; k++) full[k] = from[k];
  return load(full);
}
INLINE void store(float* to, V value, I remaining) {
  if (remaining >= W) return store(to, value);
  float full[W];
  store(full, value);
  for (I k = 0; k < remaining; k++) to[k] = full[k];
}

// ---- activations
// exp(y) = 2^n (1 + p), with n the integer nearest to y / ln 2, and p = exp(r) - 1 by its Taylor series, where r is the
// remainder, |r| <= ln(2) / 2. The eighth term, the first omitted, is at most about 2^-26 of p. Then
//     sigmoid(z) = 1 / (1 + exp(-z))
//     tanh(z)    = e / (e + 2), e = exp(2z) - 1 = 2^n p + (2^n - 1), which is accurate for small z, where n = 0.
struct ExpParts {
  V two_n, p;
};

INLINE ExpParts exp_parts(V y) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: added to a small number, it moves the integer part to the lowest bits
  V shifted = y * 1.44269504f + magic;
  V n = shifted - magic;
  V r = y - n * 0.693359375f;  // ln 2 in two parts, the first of few bits, so that this product is exact
  r = r + n * 2.12194440e-4f;
  V q = r * (1.0f / 5040) + 1.0f / 720;
  q = q * r + 1.0f / 120;
  q = q * r + 1.0f / 24;
  q = q * r + 1.0f / 6;
  q = q * r + 0.5f;
  VI exponent = ((VI)shifted << 23) + (127 << 23);
  return {(V)exponent, r + r * r * q};
}

// MIN and MAX return their second operand if one is NaN: NaN is preserved.
INLINE V clamp(V y, float low, float high) { return MAX(broadcast(low), MIN(broadcast(high), y)); }

INLINE V sigmoid(V z) {
  ExpParts e = exp_parts(clamp(-z, -87.0f, 89.0f));  // above 88.4, 2^n is infinite, and the sigmoid 0
  return 1.0f / (1.0f + e.two_n * (1.0f + e.p));
}

INLINE V tanh_(V z) {
  ExpParts e = exp_parts(clamp(z + z, -40.0f, 40.0f));  // beyond this range tanh rounds to 1
  V exp_minus_1 = e.two_n * e.p + (e.two_n - 1.0f);
  return exp_minus_1 / (exp_minus_1 + 2.0f);
}

// ---- the interface with native.py
// A tensor with a row per step and sequence. The numbers of a row are contiguous; the rows have any strides.
struct Rows {
  float* data;                // null if absent
  I step_stride, row_stride;  // from step to step, and from sequence to sequence
};

struct StepInputs {
  const float *x, *h;  // x_t and h_{t-1}
};

// Sizes and strides count numbers, not bytes. Steps are counted in the order in which the layer reads them.
struct Layer {
  I T, B, D, H, Hp, width;  // width: D + H, rounded up to a multiple of 16
  I saved_size;          // numbers in `saved` per step and sequence
  I backwards;           // whether the sequences are read from the last step to the first
  const I* batch_sizes;  // of a PackedSequence: the number of sequences that have step t; null for a dense batch
  const I* offsets;      // the index of the first row of step t; null for a dense batch
  I num_threads;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
  Rows x, y, dx, dy, dc;          // null: dx is not needed; the incoming gradients dy and dc are zeros
  const float *h0, *c0;           // (B, H) each, like all up to dc_n
  float *h_n, *c_n;               // the state after each sequence's last step
  float *dh_0, *dc_0;             // null: not needed
  const float *dh_n, *dc_n;       // null: zeros
  const float *w_ih, *w_hh;       // (4H, D), (4H, H)
  const float *b_ih, *b_hh;       // (4H) each; null if absent
  float *d_w_ih, *d_w_hh, *d_b;   // (4H, D), (4H, H), (4H) for either bias; null: not needed
  float *saved;                   // per step and sequence c (Hp) and the gates i, f, g, o (4 Hp), which backward
                                  // overwrites with dz; without gradients only c
  float *workspace;

  // of step s: its position in time, and the number of sequences that have it
  I time(I s) const { return backwards ? T - 1 - s : s; }
  I batch_size(I s) const { return batch_sizes ? batch_sizes[time(s)] : B; }
  float* at(const Rows& rows, I s, I b) const {
    I t = time(s);
    return rows.data + (offsets ? offsets[t] : t) * rows.step_stride + b * rows.row_stride;
  }
  float* c(I s, I b) const {
    I t = time(s);
    return saved + ((offsets ? offsets[t] : t * B) + b) * saved_size;
  }
  float* gates(I s, I b) const { return saved_size > Hp ? c(s, b) + Hp : nullptr; }
  // the state before step s; a sequence starts at the first step that it has
  bool starts(I s, I b) const { return s == 0 || b >= batch_size(s - 1); }
  const float* previous_h(I s, I b) const { return starts(s, b) ? h0 + b * H : at(y, s - 1, b); }
  const float* previous_c(I s, I b) const { return starts(s, b) ? c0 + b * H : c(s - 1, b); }

  // workspace of the forward pass
  float* z(I b) const { return workspace + b * 4 * W; }                   // (B, 4, W): pre-activations of W units
  float* panel(I u0) const { return z(B) + (1 + D + H) * 4 * u0; }        // packed weights of these units
  StepInputs* step_inputs() const { return (StepInputs*)panel(padded(H)); }  // of each sequence at the current step

  // workspace of the backward pass
  float* d_state() const { return workspace; }                            // (B, width): dh_{t-1} and dx_t
  float* d_c() const { return d_state() + B * width; }                    // (B, Hp): dc_{t-1}
  float* weights() const { return d_c() + B * Hp; }                       // packed [W_hh, W_ih]
  float* sums() const { return weights() + 4 * Hp * width; }              // (4H, width): [dW_ih, dW_hh]
  float* inputs(I chunk) const {  // [x, h_{t-1}] of a step, and packed for a block
    return sums() + 4 * H * width + chunk * (1 + BLOCK) * width;
  }
  float* dz(I u) const { return inputs(num_threads) + 4 * BLOCK * u; }    // packed for a block, starting at unit u
};

// ---- threads
// The pool may have fewer threads than requested, so each thread fetches the next item until none remains.
struct Work {
  const Layer* layer;
  void (*item)(const Layer&, I);
  I items, next;
};

static void run_items(void* argument) {
  Work& work = *(Work*)argument;
  for (I n; (n = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED)) < work.items;) work.item(*work.layer, n);
}

static void run(const Layer& layer, void (*item)(const Layer&, I), I items) {
  Work work = {&layer, item, items, 0};
  I num_threads = min_of(items, layer.num_threads);
  if (num_threads > 1 && layer.parallel)
    layer.parallel(run_items, &work, (unsigned)num_threads, 0);
  else
    run_items(&work);
}

// Returns the first sequence of the nth of num_chunks chunks. A dense batch is divided evenly; the chunks of a packed
// batch, sorted by decreasing length, have about the same number of steps.
static I chunk_begin(const Layer& layer, I n, I num_chunks) {
  if (!layer.batch_sizes) return layer.B * n / num_chunks;
  I total = 0, b = 0, t = layer.T;
  for (I s = 0; s < layer.T; s++) total += layer.batch_sizes[s];
  for (I steps = 0; b < layer.B && steps * num_chunks < total * n; b++) {  // sequence b has t steps
    while (layer.batch_sizes[t - 1] <= b) t--;
    steps += t;
  }
  return b;
}

static I num_chunks(const Layer& layer) { return min_of(layer.num_threads, layer.B); }

// Divides `total` into parts of at most LIMIT that are as equal as possible, because a tile with a single row or vector
// is slow. Calls `part` with each part's size, as a compile-time constant, and its beginning.
template <int N>
struct Constant {
  static constexpr int value = N;
};

template <int SIZE, class Part>
INLINE void for_each_equal_part(I size, I begin, I end, Part part) {
  if constexpr (SIZE > 0) {
    if (size == SIZE)
      for (; begin < end; begin += SIZE) part(Constant<SIZE>(), begin);
    else
      for_each_equal_part<SIZE - 1>(size, begin, end, part);
  }
}

template <int LIMIT, class Part>
INLINE void for_each_part(I total, Part part) {
  if (total == 0) return;
  I count = ceil_div(total, LIMIT), size = LIMIT, shorter = count * LIMIT - total;
  for (; shorter >= count; shorter -= count) size--;  // faster than a division
  I longer = (count - shorter) * size;
  for_each_equal_part<LIMIT>(size, 0, longer, part);
  if (shorter > 0) for_each_equal_part<LIMIT>(size - 1, longer, total, part);
}

// Packs the nth row of `rows`: the vectors of a row that belong to one tile are contiguous.
INLINE void pack_row(float* packed, I rows, I n, const float* row, I vectors) {
  for_each_part<C>(vectors, [&](auto few, I v0) {
    float* to = packed + (rows * v0 + n * few.value) * W;
    for (int v = 0; v < few.value; v++) store(to + v * W, load(row + (v0 + v) * W));
  });
}

// A loop, because GCC puts an array initialized by `= {}` in memory instead of registers.
template <int ROWS, int VECTORS>
INLINE void clear(V (&sums)[ROWS][VECTORS]) {
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) sums[r][v] = V{};
}

// Adds products to a tile: sums[r][v] += sum over k of number(r, k) * w[k][v], with packed weights w.
template <int ROWS, int VECTORS, class Number>
INLINE void add_products(V (&sums)[ROWS][VECTORS], I begin, I end, const float* weights, Number number) {
  weights += begin * VECTORS * W;
  for (I k = begin; k < end; k++, weights += VECTORS * W) {
    V a[ROWS];
    for (int r = 0; r < ROWS; r++) a[r] = broadcast(number(r, k));
    for (int v = 0; v < VECTORS; v++) {
      V w = load(weights + v * W);
      for (int r = 0; r < ROWS; r++) sums[r][v] += a[r] * w;
    }
  }
}

// Adds a tile to memory whose rows have this stride.
template <int ROWS, int VECTORS>
INLINE void accumulate(float* to, I stride, const V (&sums)[ROWS][VECTORS]) {
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) store(to + r * stride + v * W, load(to + r * stride + v * W) + sums[r][v]);
}

// ---- forward
// A panel holds, for W units, the sum of their biases and, for each input of their gates (D of x, H of h), its weights
// for i, f, g and o, W each.
static void pack_forward(const Layer& layer) {
  I D = layer.D, H = layer.H;
  for (I u0 = 0; u0 < H; u0 += W) {
    float* to = layer.panel(u0);
    for (int gate = 0; gate < 4; gate++)
      for (I u = 0; u < W; u++) {
        I z = gate * H + u0 + u, at = gate * W + u;
        bool is_unit = u0 + u < H;
        to[at] = (is_unit && layer.b_ih ? layer.b_ih[z] : 0.0f) + (is_unit && layer.b_hh ? layer.b_hh[z] : 0.0f);
        for (I k = 0; k < D; k++) to[(1 + k) * 4 * W + at] = is_unit ? layer.w_ih[z * D + k] : 0.0f;
        for (I k = 0; k < H; k++) to[(1 + D + k) * 4 * W + at] = is_unit ? layer.w_hh[z * H + k] : 0.0f;
      }
  }
}

template <int ROWS>
static void forward_tile(const Layer& layer, I b0, I u0, I begin, I end) {
  const float *x[ROWS], *h[ROWS];
  for (int r = 0; r < ROWS; r++) {
    x[r] = layer.step_inputs()[b0 + r].x;
    h[r] = layer.step_inputs()[b0 + r].h;
  }
  const float* weights = layer.panel(u0) + 4 * W;
  I D = layer.D;
  V sums[ROWS][4];
  clear(sums);
  add_products(sums, min_of(begin, D), min_of(end, D), weights, [&](int r, I k) { return x[r][k]; });
  add_products(sums, max_of(begin, D), max_of(end, D), weights, [&](int r, I k) { return h[r][k - D]; });
  accumulate(layer.z(b0), 4 * W, sums);
}

// Computes the activations of W units of one sequence from z, and overwrites two parts of z with c_t and o.
static void forward_cell(const Layer& layer, I s, I b, I u0) {
  I remaining = layer.H - u0, Hp = layer.Hp;
  float *z = layer.z(b), *gates = layer.gates(s, b);
  V i = sigmoid(load(z)), f = sigmoid(load(z + W)), g = tanh_(load(z + 2 * W)), o = sigmoid(load(z + 3 * W));
  V c = f * load(layer.previous_c(s, b) + u0, remaining) + i * g;
  store(layer.c(s, b) + u0, c);
  store(z + 2 * W, c);
  store(z + 3 * W, o);
  if (gates) {
    store(gates + u0, i);
    store(gates + u0 + Hp, f);
    store(gates + u0 + 2 * Hp, g);
    store(gates + u0 + 3 * Hp, o);
  }
}

static void forward_chunk(const Layer& layer, I n) {
  I begin = chunk_begin(layer, n, num_chunks(layer)), end = chunk_begin(layer, n + 1, num_chunks(layer));
  I numbers = layer.D + layer.H;
  for (I s = 0; s < layer.T; s++) {
    I rows = min_of(layer.batch_size(s), end) - begin;
    for (I b = begin; b < begin + rows; b++) layer.step_inputs()[b] = {layer.at(layer.x, s, b), layer.previous_h(s, b)};
    for (I u0 = 0; rows > 0 && u0 < layer.H; u0 += W) {
      for (I b = begin; b < begin + rows; b++) memcpy(layer.z(b), layer.panel(u0), 4 * W * sizeof(float));
      for (I k = 0; k < numbers; k += BLOCK)  // outer loop, so that these weights stay in the cache for all rows
        for_each_part<R>(rows, [&](auto rows, I b) {
          forward_tile<rows.value>(layer, begin + b, u0, k, min_of(k + BLOCK, numbers));
        });
      for (I b = begin; b < begin + rows; b++) forward_cell(layer, s, b, u0);
      for (I b = begin; b < begin + rows; b++) {  // a separate loop, because h depends on c
        const float* z = layer.z(b);
        store(layer.at(layer.y, s, b) + u0, load(z + 3 * W) * tanh_(load(z + 2 * W)), layer.H - u0);
      }
    }
  }
}

static void last_states(const Layer& layer) {
  I row = layer.H * sizeof(float);
  for (I s = layer.T - 1, b = 0; b < layer.B; s--)
    for (; b < layer.batch_size(s); b++) {  // the sequences that end at this step
      memcpy(layer.h_n + b * layer.H, layer.at(layer.y, s, b), row);
      memcpy(layer.c_n + b * layer.H, layer.c(s, b), row);
    }
}

// ---- backward
// Returns the size of what one step computes: dh_{t-1}, and dx_t if needed.
static I gradient_width(const Layer& layer) { return layer.H + (layer.dx.data ? layer.D : 0); }

// Packs [W_hh, W_ih], with the rows of dz including its padding.
static void pack_backward(const Layer& layer) {
  I D = layer.D, H = layer.H, Hp = layer.Hp;
  float* row = layer.inputs(0);
  for (I n = 0, z = 0; n < 4 * Hp; n++) {
    memset(row, 0, layer.width * sizeof(float));
    if (n % Hp < H) {
      memcpy(row, layer.w_hh + z * H, H * sizeof(float));
      if (layer.dx.data) memcpy(row + H, layer.w_ih + z * D, D * sizeof(float));
      z++;
    }
    pack_row(layer.weights(), 4 * Hp, n, row, ceil_div(gradient_width(layer), W));
  }
}

// Computes what needs no weights: dz_t and f_t dc_t, from dh_t and dc_t.
static void backward_cell(const Layer& layer, I s, I b) {
  I H = layer.H, Hp = layer.Hp;
  const float *c_row = layer.c(s, b), *previous = layer.previous_c(s, b);
  const float* dy = layer.dy.data ? layer.at(layer.dy, s, b) : nullptr;
  const float* dc_row = layer.dc.data ? layer.at(layer.dc, s, b) : nullptr;
  float* dh_row = layer.d_state() + b * layer.width;
  float *i_row = layer.gates(s, b), *f_row = i_row + Hp, *g_row = f_row + Hp, *o_row = g_row + Hp;
  float* d_c_row = layer.d_c() + b * Hp;
  for (I u = 0; u < H; u += W) {
    I remaining = H - u;
    V i = load(i_row + u), f = load(f_row + u), g = load(g_row + u), o = load(o_row + u);
    V q = tanh_(load(c_row + u)), dh = load(dh_row + u, remaining), dc = load(d_c_row + u);
    if (dy) dh += load(dy + u, remaining);
    if (dc_row) dc += load(dc_row + u, remaining);
    dc += dh * (o * (1.0f - q * q));
    store(i_row + u, dc * (g * (i * (1.0f - i))));
    store(f_row + u, dc * (load(previous + u, remaining) * (f * (1.0f - f))));
    store(g_row + u, dc * (i * (1.0f - g * g)));
    store(o_row + u, dh * (q * (o * (1.0f - o))));
    store(d_c_row + u, dc * f);
  }
  for (I gate = 0; gate < 4; gate++)  // the product includes the padding
    for (I u = H; u < Hp; u++) i_row[gate * Hp + u] = 0.0f;
  memset(dh_row, 0, layer.width * sizeof(float));
}

template <int ROWS, int VECTORS>
static void product_tile(const Layer& layer, const float* dz, I b0, I n0, I begin, I end) {
  I stride = layer.saved_size;
  V sums[ROWS][VECTORS];
  clear(sums);
  add_products(sums, begin, end, layer.weights() + 4 * layer.Hp * n0, [&](int r, I k) { return dz[r * stride + k]; });
  accumulate(layer.d_state() + b0 * layer.width + n0, layer.width, sums);
}

static void backward_chunk(const Layer& layer, I n) {
  I begin = chunk_begin(layer, n, num_chunks(layer)), end = chunk_begin(layer, n + 1, num_chunks(layer));
  I vectors = ceil_div(gradient_width(layer), W);
  for (I s = layer.T - 1; s >= 0; s--) {
    I rows = min_of(layer.batch_size(s), end) - begin;
    for (I b = begin; b < begin + rows; b++) backward_cell(layer, s, b);
    const float* dz = layer.gates(s, begin);
    for_each_part<C>(rows > 0 ? vectors : 0, [&](auto vectors, I v0) {
      for (I k = 0; k < 4 * layer.Hp; k += BLOCK)  // outer loop, as in the forward pass
        for_each_part<R>(rows, [&](auto rows, I b) {
          product_tile<rows.value, vectors.value>(layer, dz + b * layer.saved_size, begin + b, v0 * W, k, k + BLOCK);
        });
    });
    for (I b = begin; layer.dx.data && b < begin + rows; b++)
      memcpy(layer.at(layer.dx, s, b), layer.d_state() + b * layer.width + layer.H, layer.D * sizeof(float));
  }
}

// ---- gradients of the weights: sums over all steps and sequences, in blocks
static bool needs_weight_gradients(const Layer& layer) { return layer.d_w_ih || layer.d_w_hh; }

struct Block {
  I count;
  const float* dz[BLOCK];
  float *packed_dz, *inputs;  // inputs: [x, h_{t-1}], packed
};

template <int ROWS, int VECTORS>
static void outer_tile(const Layer& layer, const Block& block, const float* dz, I row, I n0) {
  float* to = layer.sums() + row * layer.width + n0;
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) __builtin_prefetch(to + r * layer.width + v * W, 1);  // for `accumulate`
  V sums[ROWS][VECTORS];
  clear(sums);
  add_products(sums, 0, block.count, block.inputs + BLOCK * n0, [&](int r, I k) { return dz[k * ROWS + r]; });
  accumulate(to, layer.width, sums);
}

// Adds a block to the gradients of the weights of units begin to end - 1, in all four gates.
static void add_block(const Layer& layer, const Block& block, I begin, I end) {
  I units = end - begin, vectors = ceil_div(layer.D + layer.H, W);
  for (int gate = 0; needs_weight_gradients(layer) && gate < 4; gate++)
    for_each_part<R>(units, [&](auto rows, I u) {
      float* to = block.packed_dz + BLOCK * (gate * units + u);
      for (I k = 0; k < block.count; k++, to += rows.value)
        memcpy(to, block.dz[k] + gate * layer.Hp + begin + u, rows.value * sizeof(float));
    });
  for_each_part<C>(needs_weight_gradients(layer) ? vectors : 0, [&](auto vectors, I v0) {
    for (int gate = 0; gate < 4; gate++)
      for_each_part<R>(units, [&](auto rows, I u) {
        const float* dz = block.packed_dz + BLOCK * (gate * units + u);
        outer_tile<rows.value, vectors.value>(layer, block, dz, gate * layer.H + begin + u, v0 * W);
      });
  });
  for (I u = begin; layer.d_b && u < end; u += W) {
    V sums[4] = {};
    for (I k = 0; k < block.count; k++)  // the last load may read past the gates, within saved_size
      for (int gate = 0; gate < 4; gate++) sums[gate] += load(block.dz[k] + gate * layer.Hp + u);
    for (int gate = 0; gate < 4; gate++) {
      float* to = layer.d_b + gate * layer.H + u;
      store(to, load(to, end - u) + sums[gate], end - u);
    }
  }
}

static I num_weight_gradient_chunks(const Layer& layer) { return min_of(layer.num_threads, ceil_div(layer.H, R)); }

static void weight_gradient_chunk(const Layer& layer, I n) {
  I D = layer.D, H = layer.H, width = layer.width, begin = H * n / num_weight_gradient_chunks(layer);
  I end = H * (n + 1) / num_weight_gradient_chunks(layer);
  for (I z = begin, units = (end - begin) * sizeof(float); z < 4 * H; z += H) {
    if (needs_weight_gradients(layer)) memset(layer.sums() + z * width, 0, units * width);
    if (layer.d_b) memset(layer.d_b + z, 0, units);
  }
  float *row = layer.inputs(n), *inputs = row + width;
  Block block = {0, {}, layer.dz(begin), inputs};
  for (I k = D + H; k < width; k++) row[k] = 0.0f;
  for (I s = layer.T - 1; s >= 0; s--)
    for (I b = 0; b < layer.batch_size(s); b++) {
      memcpy(row, layer.at(layer.x, s, b), D * sizeof(float));
      memcpy(row + D, layer.previous_h(s, b), H * sizeof(float));
      pack_row(inputs, BLOCK, block.count, row, ceil_div(D + H, W));
      block.dz[block.count++] = layer.gates(s, b);
      if (block.count == BLOCK) {
        add_block(layer, block, begin, end);
        block.count = 0;
      }
    }
  add_block(layer, block, begin, end);
  for (int gate = 0; gate < 4; gate++)
    for (I z = gate * H + begin; z < gate * H + end; z++) {
      if (layer.d_w_ih) memcpy(layer.d_w_ih + z * D, layer.sums() + z * width, D * sizeof(float));
      if (layer.d_w_hh) memcpy(layer.d_w_hh + z * H, layer.sums() + z * width + D, H * sizeof(float));
    }
}

// Copies the first H numbers of each row between buffers with different row sizes.
static void copy_rows(const Layer& layer, float* to, I to_size, const float* from, I from_size) {
  for (I b = 0; b < layer.B; b++) memcpy(to + b * to_size, from + b * from_size, layer.H * sizeof(float));
}

// ---- functions that native.py calls
// Returns whether batch_sizes are positive, do not increase and sum to the number of rows.
static bool is_valid_packing(const Layer& layer, I rows) {
  I total = 0, previous = layer.B;
  for (I t = 0; layer.batch_sizes && t < layer.T; t++) {
    I current = layer.batch_sizes[t];
    if (current < 1 || current > previous || total > rows - current || layer.offsets[t] != total) return false;
    total += current;
    previous = current;
  }
  return !layer.batch_sizes || total == rows;
}

extern "C" {

// native_library.py calls these two first, to check that the library matches its own structures.
I version() { return 3; }
I layer_size() { return sizeof(Layer); }

// Computes y, the state after each sequence, and `saved`. Returns 1, or 0 if batch_sizes do not match a PackedSequence
// with this number of rows.
int forward(const Layer* layer, I rows) {
  if (!is_valid_packing(*layer, rows)) return 0;
  pack_forward(*layer);
  run(*layer, forward_chunk, num_chunks(*layer));
  last_states(*layer);
  return 1;
}

// Computes all gradients whose pointers are not null.
void backward(const Layer* layer) {
  pack_backward(*layer);
  const Layer& l = *layer;
  memset(l.workspace, 0, l.B * (l.width + l.Hp) * sizeof(float));  // dh and dc of the last step
  if (l.dh_n) copy_rows(l, l.d_state(), l.width, l.dh_n, l.H);
  if (l.dc_n) copy_rows(l, l.d_c(), l.Hp, l.dc_n, l.H);
  run(l, backward_chunk, num_chunks(l));
  if (l.dh_0) copy_rows(l, l.dh_0, l.H, l.d_state(), l.width);
  if (l.dc_0) copy_rows(l, l.dc_0, l.H, l.d_c(), l.Hp);
  if (needs_weight_gradients(l) || l.d_b) run(l, weight_gradient_chunk, num_weight_gradient_chunks(l));
}
}
