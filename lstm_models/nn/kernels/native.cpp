// One LSTM layer in one direction, over all time steps: forward, and backward through time. float32, on the CPU.
//
// The equations are those of cells.py, the gradient that of through_time.py, where it is derived; this file only does
// them in an order that a CPU likes. It needs no header of PyTorch's and allocates nothing: native.py brings all
// memory, and calls the two functions at the end through ctypes. It is compiled once for each instruction set
// (pyproject.toml), and `V`, a vector of W floats, is what one of its registers holds: 16 with AVX-512, 8 with AVX2.
//
// What makes it fast is one idea, applied three times: a TILE of results is kept in registers while one runs along the
// sum that makes it. A tile has up to R rows (sequences of the batch, or units) and up to C vectors (of units, or of
// the input). For each number k along the sum, C vectors of weights are loaded, R numbers are each spread over a
// vector, and R * C products are added up, without a result being written to memory on the way:
//
//     forward_tile    the sums of the four gates of W units, from x_t and h_{t-1}
//     product_tile    dh_{t-1} and dx_t = dz_t [W_hh, W_ih]
//     outer_tile      [dW_ih, dW_hh] = sum over all steps and sequences of dz^T [x, h_{t-1}]
//
// A sum is done BLOCK numbers at a time, for all rows one after another, so that what is loaded most stays in the L1
// cache; it lies there side by side in the order in which it is read, for it has been copied: PACKED. In memory that
// nobody else sees a row of H numbers has room for Hp, a multiple of 16; behind the H-th lies whatever came out, but of
// dz zeros.
//
// Threads share the work by the batch's sequences (the recursion) or by the rows of dW (the sum): no number depends on
// how many there are, for each is computed by one thread, in one order.

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

constexpr int BLOCK = 64;  // 16 KB of weights; and many short sums added up are more exact than a long one

typedef int64_t I;
typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t VI __attribute__((vector_size(4 * W)));
typedef float Unaligned __attribute__((vector_size(4 * W), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE V load(const float* from) { return *(const Unaligned*)from; }
INLINE void store(float* to, V value) { *(Unaligned*)to = value; }
INLINE V spread(float value) { return value - V{}; }  // to each of its numbers
INLINE constexpr I smaller(I a, I b) { return a < b ? a : b; }
INLINE constexpr I larger(I a, I b) { return a < b ? b : a; }
INLINE I parts(I whole, I most) { return (whole + most - 1) / most; }  // of at most so many
INLINE I padded(I size) { return parts(size, W) * W; }

// The same at the end of somebody else's row, where fewer than W numbers may be left.
INLINE V load(const float* from, I left) {
  if (left >= W) return load(from);
  float full[W] = {};
  for (I k = 0; k < left; k++) full[k] = from[k];
  return load(full);
}
INLINE void store(float* to, V value, I left) {
  if (left >= W) return store(to, value);
  float full[W];
  store(full, value);
  for (I k = 0; k < left; k++) to[k] = full[k];
}

// ---- the activations
// exp(y) = 2^n (1 + p), with n the whole number nearest to y / ln 2, and p = exp(r) - 1 by its Taylor series for what
// remains, |r| <= ln(2) / 2: its eighth term, the first left out, is about 2^-26 of p at most. Then
//     sigmoid(z) = 1 / (1 + exp(-z))
//     tanh(z)    = e / (e + 2), e = exp(2z) - 1 = 2^n p + (2^n - 1), which is exact where z is small, for there n = 0.
struct Power {
  V two_n, p;
};

INLINE Power power(V y) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: added to a small number, it leaves the whole part in the lowest bits
  V shifted = y * 1.44269504f + magic;
  V n = shifted - magic;
  V r = y - n * 0.693359375f;  // ln 2 in two parts, the first of few bits, so that nothing is lost here
  r = r + n * 2.12194440e-4f;
  V q = r * (1.0f / 5040) + 1.0f / 720;
  q = q * r + 1.0f / 120;
  q = q * r + 1.0f / 24;
  q = q * r + 1.0f / 6;
  q = q * r + 0.5f;
  VI exponent = ((VI)shifted << 23) + (127 << 23);
  return {(V)exponent, r + r * r * q};
}

// Of two numbers of which one is NaN, MIN and MAX give the second: NaN stays NaN.
INLINE V limited(V y, float low, float high) { return MAX(spread(low), MIN(spread(high), y)); }

INLINE V sigmoid(V z) {
  Power e = power(limited(-z, -87.0f, 89.0f));  // from 88.4, 2^n is infinite, and the sigmoid 0
  return 1.0f / (1.0f + e.two_n * (1.0f + e.p));
}

INLINE V tanh_(V z) {
  Power e = power(limited(z + z, -40.0f, 40.0f));  // beyond, it is 1 to the last bit
  V less_one = e.two_n * e.p + (e.two_n - 1.0f);
  return less_one / (less_one + 2.0f);
}

// ---- what native.py gives
// A tensor with one row for each sequence at each step: a row's numbers lie side by side, the rows where they like.
struct Rows {
  float* first;  // null: there is none
  I step, row;   // from one step to the next, and from one sequence to the next
};

struct Sources {
  const float *x, *h;  // x_t and h_{t-1}
};

// All in numbers, not bytes. Steps are counted in the order in which the layer reads them.
struct Layer {
  I T, B, D, H, Hp, width;  // width: D + H, likewise rounded up to a multiple of 16
  I record;              // how many numbers are kept of each step of each sequence
  I backwards;           // whether it reads from the end to the beginning
  const I* batch_sizes;  // of a PackedSequence: how many sequences have step t, and
  const I* offsets;      // which row is the first of it; null for a dense batch, in which all have all
  I threads;
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
  Rows x, y, dx, dy, dc;          // null: dx is not wanted; dy and dc, which come from outside, are zeros
  const float *h0, *c0;           // (B, H) each, as all up to dc_n
  float *h_n, *c_n;               // the state after each sequence's last step
  float *dh_0, *dc_0;             // null: not wanted
  const float *dh_n, *dc_n;       // null: zeros
  const float *w_ih, *w_hh;       // (4H, D), (4H, H)
  const float *b_ih, *b_hh;       // (4H) each; null: there is none
  float *d_w_ih, *d_w_hh, *d_b;   // (4H, D), (4H, H), (4H), of either bias; null: not wanted
  float *kept;                    // of each step of each sequence its c (Hp) and gates i, f, g, o (4 Hp), whose place
                                  // dz takes once they are used; without gradients c alone
  float *room;                    // for what is needed on the way

  // of step s of those that are done
  I time(I s) const { return backwards ? T - 1 - s : s; }
  I live(I s) const { return batch_sizes ? batch_sizes[time(s)] : B; }
  float* at(const Rows& rows, I s, I b) const {
    I t = time(s);
    return rows.first + (offsets ? offsets[t] : t) * rows.step + b * rows.row;
  }
  float* c(I s, I b) const {
    I t = time(s);
    return kept + ((offsets ? offsets[t] : t * B) + b) * record;
  }
  float* gates(I s, I b) const { return record > Hp ? c(s, b) + Hp : nullptr; }
  // the state before step s: a sequence that was not there at the step before begins
  bool begins(I s, I b) const { return s == 0 || b >= live(s - 1); }
  const float* h_before(I s, I b) const { return begins(s, b) ? h0 + b * H : at(y, s - 1, b); }
  const float* c_before(I s, I b) const { return begins(s, b) ? c0 + b * H : c(s - 1, b); }

  // the room of the forward pass
  float* z(I b) const { return room + b * 4 * W; }                        // (B, 4, W): the sums of W units' gates
  float* panel(I u0) const { return z(B) + (1 + D + H) * 4 * u0; }        // their packed weights
  Sources* sources() const { return (Sources*)panel(padded(H)); }         // of each sequence, at this step

  // the room of the backward pass
  float* d_state() const { return room; }                                 // (B, width): where dh_{t-1} and dx_t arrive
  float* d_c() const { return d_state() + B * width; }                    // (B, Hp): dc_{t-1}
  float* weights() const { return d_c() + B * Hp; }                       // packed
  float* sums() const { return weights() + 4 * Hp * width; }              // (4H, width): [dW_ih, dW_hh]
  float* inputs(I thread) const {  // [x, h_{t-1}] of a step, and packed of a block
    return sums() + 4 * H * width + thread * (1 + BLOCK) * width;
  }
  float* dz(I u) const { return inputs(threads) + 4 * BLOCK * u; }        // packed, of a block, from some unit on
};

// ---- threads
// The pool may have fewer threads than were asked for, so each takes the next item until there is none.
struct Work {
  const Layer* layer;
  void (*item)(const Layer&, I);
  I items, next;
};

static void take_items(void* argument) {
  Work& work = *(Work*)argument;
  for (I n; (n = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED)) < work.items;) work.item(*work.layer, n);
}

static void run(const Layer& layer, void (*item)(const Layer&, I), I items) {
  Work work = {&layer, item, items, 0};
  I threads = smaller(items, layer.threads);
  if (threads > 1 && layer.parallel)
    layer.parallel(take_items, &work, (unsigned)threads, 0);
  else
    take_items(&work);
}

// The first sequence of the nth of all shares: dense batches are cut evenly; of packed ones, whose sequences become
// shorter and shorter, each share has about as many steps.
static I first_of_share(const Layer& layer, I n, I shares) {
  if (!layer.batch_sizes) return layer.B * n / shares;
  I all = 0, b = 0, t = layer.T;
  for (I s = 0; s < layer.T; s++) all += layer.batch_sizes[s];
  for (I seen = 0; b < layer.B && seen * shares < all * n; b++) {  // the sequence b has t steps
    while (layer.batch_sizes[t - 1] <= b) t--;
    seen += t;
  }
  return b;
}

static I shares(const Layer& layer) { return smaller(layer.threads, layer.B); }

// Cuts a whole into parts of at most MOST that are as even as can be, for a tile of a single row or vector is slow, and
// calls `part` with the size of each, which only run time knows, as a constant, and with where it begins.
template <int N>
struct Constant {
  static constexpr int value = N;
};

template <int SIZE, class Part>
INLINE void equal_parts(I size, I begin, I end, Part part) {
  if constexpr (SIZE > 0) {
    if (size == SIZE)
      for (; begin < end; begin += SIZE) part(Constant<SIZE>(), begin);
    else
      equal_parts<SIZE - 1>(size, begin, end, part);
  }
}

template <int MOST, class Part>
INLINE void in_parts(I whole, Part part) {
  if (whole == 0) return;
  I count = parts(whole, MOST), size = MOST, shorter = count * MOST - whole;
  for (; shorter >= count; shorter -= count) size--;  // sooner done than a division
  I longer = (count - shorter) * size;
  equal_parts<MOST>(size, 0, longer, part);
  if (shorter > 0) equal_parts<MOST>(size - 1, longer, whole, part);
}

// Packs the nth of so many rows: the few vectors of each, that a tile has, side by side.
INLINE void pack_row(float* packed, I rows, I n, const float* row, I vectors) {
  in_parts<C>(vectors, [&](auto few, I v0) {
    float* to = packed + (rows * v0 + n * few.value) * W;
    for (int v = 0; v < few.value; v++) store(to + v * W, load(row + (v0 + v) * W));
  });
}

// Not by `= {}`, which GCC makes in memory rather than in registers.
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
    for (int r = 0; r < ROWS; r++) a[r] = spread(number(r, k));
    for (int v = 0; v < VECTORS; v++) {
      V w = load(weights + v * W);
      for (int r = 0; r < ROWS; r++) sums[r][v] += a[r] * w;
    }
  }
}

// Adds a tile to its place in memory, whose rows lie so far apart.
template <int ROWS, int VECTORS>
INLINE void add_to(float* to, I apart, const V (&sums)[ROWS][VECTORS]) {
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) store(to + r * apart + v * W, load(to + r * apart + v * W) + sums[r][v]);
}

// ---- forward
// A panel has, for W units, the sum of their biases and, for each number that enters their gates (D of x, H of h), its
// weights: to i, f, g and o, W each.
static void pack_forward(const Layer& layer) {
  I D = layer.D, H = layer.H;
  for (I u0 = 0; u0 < H; u0 += W) {
    float* to = layer.panel(u0);
    for (int gate = 0; gate < 4; gate++)
      for (I u = 0; u < W; u++) {
        I z = gate * H + u0 + u, at = gate * W + u;
        bool is_one = u0 + u < H;
        to[at] = (is_one && layer.b_ih ? layer.b_ih[z] : 0.0f) + (is_one && layer.b_hh ? layer.b_hh[z] : 0.0f);
        for (I k = 0; k < D; k++) to[(1 + k) * 4 * W + at] = is_one ? layer.w_ih[z * D + k] : 0.0f;
        for (I k = 0; k < H; k++) to[(1 + D + k) * 4 * W + at] = is_one ? layer.w_hh[z * H + k] : 0.0f;
      }
  }
}

template <int ROWS>
static void forward_tile(const Layer& layer, I b0, I u0, I begin, I end) {
  const float *x[ROWS], *h[ROWS];
  for (int r = 0; r < ROWS; r++) {
    x[r] = layer.sources()[b0 + r].x;
    h[r] = layer.sources()[b0 + r].h;
  }
  const float* weights = layer.panel(u0) + 4 * W;
  I D = layer.D;
  V sums[ROWS][4];
  clear(sums);
  add_products(sums, smaller(begin, D), smaller(end, D), weights, [&](int r, I k) { return x[r][k]; });
  add_products(sums, larger(begin, D), larger(end, D), weights, [&](int r, I k) { return h[r][k - D]; });
  add_to(layer.z(b0), 4 * W, sums);
}

// The activations of W units of one sequence, whose gates' sums are in z; c_t and o take the place of two of these.
static void forward_cell(const Layer& layer, I s, I b, I u0) {
  I left = layer.H - u0, Hp = layer.Hp;
  float *z = layer.z(b), *gates = layer.gates(s, b);
  V i = sigmoid(load(z)), f = sigmoid(load(z + W)), g = tanh_(load(z + 2 * W)), o = sigmoid(load(z + 3 * W));
  V c = f * load(layer.c_before(s, b) + u0, left) + i * g;
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

static void forward_share(const Layer& layer, I n) {
  I begin = first_of_share(layer, n, shares(layer)), end = first_of_share(layer, n + 1, shares(layer));
  I numbers = layer.D + layer.H;
  for (I s = 0; s < layer.T; s++) {
    I rows = smaller(layer.live(s), end) - begin;
    for (I b = begin; b < begin + rows; b++) layer.sources()[b] = {layer.at(layer.x, s, b), layer.h_before(s, b)};
    for (I u0 = 0; rows > 0 && u0 < layer.H; u0 += W) {
      for (I b = begin; b < begin + rows; b++) memcpy(layer.z(b), layer.panel(u0), 4 * W * sizeof(float));
      for (I k = 0; k < numbers; k += BLOCK)  // outside, so that these weights stay in the cache for all rows
        in_parts<R>(rows, [&](auto rows, I b) {
          forward_tile<rows.value>(layer, begin + b, u0, k, smaller(k + BLOCK, numbers));
        });
      for (I b = begin; b < begin + rows; b++) forward_cell(layer, s, b, u0);
      for (I b = begin; b < begin + rows; b++) {  // apart, for it has to wait for c
        const float* z = layer.z(b);
        store(layer.at(layer.y, s, b) + u0, load(z + 3 * W) * tanh_(load(z + 2 * W)), layer.H - u0);
      }
    }
  }
}

static void last_states(const Layer& layer) {
  I row = layer.H * sizeof(float);
  for (I s = layer.T - 1, b = 0; b < layer.B; s--)
    for (; b < layer.live(s); b++) {  // those that have no step after this one
      memcpy(layer.h_n + b * layer.H, layer.at(layer.y, s, b), row);
      memcpy(layer.c_n + b * layer.H, layer.c(s, b), row);
    }
}

// ---- backward
// What one step gives back: dh_{t-1}, and dx_t if it is wanted.
static I given_back(const Layer& layer) { return layer.H + (layer.dx.first ? layer.D : 0); }

// [W_hh, W_ih], whose rows are those of dz with its padding.
static void pack_backward(const Layer& layer) {
  I D = layer.D, H = layer.H, Hp = layer.Hp;
  float* row = layer.inputs(0);
  for (I n = 0, z = 0; n < 4 * Hp; n++) {
    memset(row, 0, layer.width * sizeof(float));
    if (n % Hp < H) {
      memcpy(row, layer.w_hh + z * H, H * sizeof(float));
      if (layer.dx.first) memcpy(row + H, layer.w_ih + z * D, D * sizeof(float));
      z++;
    }
    pack_row(layer.weights(), 4 * Hp, n, row, parts(given_back(layer), W));
  }
}

// What does not go through the weights: dz_t and f_t dc_t, from dh_t and dc_t.
static void backward_cell(const Layer& layer, I s, I b) {
  I H = layer.H, Hp = layer.Hp;
  const float *c_row = layer.c(s, b), *before = layer.c_before(s, b);
  const float* dy = layer.dy.first ? layer.at(layer.dy, s, b) : nullptr;
  const float* dc_row = layer.dc.first ? layer.at(layer.dc, s, b) : nullptr;
  float* dh_row = layer.d_state() + b * layer.width;
  float *i_row = layer.gates(s, b), *f_row = i_row + Hp, *g_row = f_row + Hp, *o_row = g_row + Hp;
  float* carried = layer.d_c() + b * Hp;
  for (I u = 0; u < H; u += W) {
    I left = H - u;
    V i = load(i_row + u), f = load(f_row + u), g = load(g_row + u), o = load(o_row + u);
    V q = tanh_(load(c_row + u)), dh = load(dh_row + u, left), dc = load(carried + u);
    if (dy) dh += load(dy + u, left);
    if (dc_row) dc += load(dc_row + u, left);
    dc += dh * (o * (1.0f - q * q));
    store(i_row + u, dc * (g * (i * (1.0f - i))));
    store(f_row + u, dc * (load(before + u, left) * (f * (1.0f - f))));
    store(g_row + u, dc * (i * (1.0f - g * g)));
    store(o_row + u, dh * (q * (o * (1.0f - o))));
    store(carried + u, dc * f);
  }
  for (I gate = 0; gate < 4; gate++)  // for the product runs over it
    for (I u = H; u < Hp; u++) i_row[gate * Hp + u] = 0.0f;
  memset(dh_row, 0, layer.width * sizeof(float));
}

template <int ROWS, int VECTORS>
static void product_tile(const Layer& layer, const float* dz, I b0, I n0, I begin, I end) {
  I record = layer.record;
  V sums[ROWS][VECTORS];
  clear(sums);
  add_products(sums, begin, end, layer.weights() + 4 * layer.Hp * n0, [&](int r, I k) { return dz[r * record + k]; });
  add_to(layer.d_state() + b0 * layer.width + n0, layer.width, sums);
}

static void backward_share(const Layer& layer, I n) {
  I begin = first_of_share(layer, n, shares(layer)), end = first_of_share(layer, n + 1, shares(layer));
  I vectors = parts(given_back(layer), W);
  for (I s = layer.T - 1; s >= 0; s--) {
    I rows = smaller(layer.live(s), end) - begin;
    for (I b = begin; b < begin + rows; b++) backward_cell(layer, s, b);
    const float* dz = layer.gates(s, begin);
    in_parts<C>(rows > 0 ? vectors : 0, [&](auto vectors, I v0) {
      for (I k = 0; k < 4 * layer.Hp; k += BLOCK)  // outside, as in the forward pass
        in_parts<R>(rows, [&](auto rows, I b) {
          product_tile<rows.value, vectors.value>(layer, dz + b * layer.record, begin + b, v0 * W, k, k + BLOCK);
        });
    });
    for (I b = begin; layer.dx.first && b < begin + rows; b++)
      memcpy(layer.at(layer.dx, s, b), layer.d_state() + b * layer.width + layer.H, layer.D * sizeof(float));
  }
}

// ---- the weights' gradients: sums over all steps and sequences, by blocks of them
static bool sums_weights(const Layer& layer) { return layer.d_w_ih || layer.d_w_hh; }

struct Block {
  I count;
  const float* dz[BLOCK];
  float *packed_dz, *inputs;  // inputs: [x, h_{t-1}], packed
};

template <int ROWS, int VECTORS>
static void outer_tile(const Layer& layer, const Block& block, const float* dz, I row, I n0) {
  float* to = layer.sums() + row * layer.width + n0;
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECTORS; v++) __builtin_prefetch(to + r * layer.width + v * W, 1);  // for the end
  V sums[ROWS][VECTORS];
  clear(sums);
  add_products(sums, 0, block.count, block.inputs + BLOCK * n0, [&](int r, I k) { return dz[k * ROWS + r]; });
  add_to(to, layer.width, sums);
}

// What a block adds to the gradients of some units' weights, in all four gates.
static void add_block(const Layer& layer, const Block& block, I begin, I end) {
  I units = end - begin, vectors = parts(layer.D + layer.H, W);
  for (int gate = 0; sums_weights(layer) && gate < 4; gate++)
    in_parts<R>(units, [&](auto rows, I u) {
      float* to = block.packed_dz + BLOCK * (gate * units + u);
      for (I k = 0; k < block.count; k++, to += rows.value)
        memcpy(to, block.dz[k] + gate * layer.Hp + begin + u, rows.value * sizeof(float));
    });
  in_parts<C>(sums_weights(layer) ? vectors : 0, [&](auto vectors, I v0) {
    for (int gate = 0; gate < 4; gate++)
      in_parts<R>(units, [&](auto rows, I u) {
        const float* dz = block.packed_dz + BLOCK * (gate * units + u);
        outer_tile<rows.value, vectors.value>(layer, block, dz, gate * layer.H + begin + u, v0 * W);
      });
  });
  for (I u = begin; layer.d_b && u < end; u += W) {
    V sums[4] = {};
    for (I k = 0; k < block.count; k++)  // the last of them may read on behind a row's gates, where there is room
      for (int gate = 0; gate < 4; gate++) sums[gate] += load(block.dz[k] + gate * layer.Hp + u);
    for (int gate = 0; gate < 4; gate++) {
      float* to = layer.d_b + gate * layer.H + u;
      store(to, load(to, end - u) + sums[gate], end - u);
    }
  }
}

static I sum_shares(const Layer& layer) { return smaller(layer.threads, parts(layer.H, R)); }

static void sum_share(const Layer& layer, I n) {
  I D = layer.D, H = layer.H, width = layer.width, begin = H * n / sum_shares(layer);
  I end = H * (n + 1) / sum_shares(layer);
  for (I z = begin, units = (end - begin) * sizeof(float); z < 4 * H; z += H) {
    if (sums_weights(layer)) memset(layer.sums() + z * width, 0, units * width);
    if (layer.d_b) memset(layer.d_b + z, 0, units);
  }
  float *row = layer.inputs(n), *inputs = row + width;
  Block block = {0, {}, layer.dz(begin), inputs};
  for (I k = D + H; k < width; k++) row[k] = 0.0f;
  for (I s = layer.T - 1; s >= 0; s--)
    for (I b = 0; b < layer.live(s); b++) {
      memcpy(row, layer.at(layer.x, s, b), D * sizeof(float));
      memcpy(row + D, layer.h_before(s, b), H * sizeof(float));
      pack_row(inputs, BLOCK, block.count, row, parts(D + H, W));
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

// Copies the first H numbers of each sequence's row, where rows have other sizes.
static void copy_rows(const Layer& layer, float* to, I to_size, const float* from, I from_size) {
  for (I b = 0; b < layer.B; b++) memcpy(to + b * to_size, from + b * from_size, layer.H * sizeof(float));
}

// ---- what native.py calls
// Whether a PackedSequence is what it says: not longer than its rows, and its sequences none longer than one before.
static bool is_sound(const Layer& layer, I rows) {
  I all = 0, before = layer.B;
  for (I t = 0; layer.batch_sizes && t < layer.T; t++) {
    I now = layer.batch_sizes[t];
    if (now < 1 || now > before || all > rows - now || layer.offsets[t] != all) return false;
    all += now;
    before = now;
  }
  return !layer.batch_sizes || all == rows;
}

extern "C" {

// What native.py asks before it calls anything else: whether this was compiled from the file that it knows.
I version() { return 3; }
I layer_size() { return sizeof(Layer); }

// y, the state after each sequence, and what is kept: 1; or 0 if no PackedSequence of so many rows has these
// batch_sizes.
int forward(const Layer* layer, I rows) {
  if (!is_sound(*layer, rows)) return 0;
  pack_forward(*layer);
  run(*layer, forward_share, shares(*layer));
  last_states(*layer);
  return 1;
}

// All gradients that there is room for.
void backward(const Layer* layer) {
  pack_backward(*layer);
  const Layer& l = *layer;
  memset(l.room, 0, l.B * (l.width + l.Hp) * sizeof(float));  // dh and dc of the last step
  if (l.dh_n) copy_rows(l, l.d_state(), l.width, l.dh_n, l.H);
  if (l.dc_n) copy_rows(l, l.d_c(), l.Hp, l.dc_n, l.H);
  run(l, backward_share, shares(l));
  if (l.dh_0) copy_rows(l, l.dh_0, l.H, l.d_state(), l.width);
  if (l.dc_0) copy_rows(l, l.dc_0, l.H, l.d_c(), l.Hp);
  if (sums_weights(l) || l.d_b) run(l, sum_share, sum_shares(l));
}
}
