// Attention in float32 with everything that torch_npu's operators put in, and its gradient. A block of queries goes
// through at once against the keys that any of them sees, so that its scores stay in the cache. They lie key by key:
// what belongs to a query (maximum, sum, gradient) is a row then, and products need no transposed scores.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

using at::Tensor;

namespace {

constexpr int64_t QUERIES = 64;  // of a block
constexpr int64_t KEYS = 32;     // first and last keys of a block are multiples: products are compiled for each size
constexpr float INFINITE = std::numeric_limits<float>::infinity();

int64_t round_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

// torch's quickest products of small matrices, which not every CPU has.
bool has_small_products() {
  static const bool has = [] {
    try {
      std::vector<float> ones(16 * 16, 1.0f), product(16 * 16);
      at::native::cpublas::brgemm(16, 16, 16, 16, 16, 16, false, ones.data(), ones.data(), product.data(), false);
      return true;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return has;
}

struct Matrix {
  float* data;
  int64_t stride;  // between rows
};

// product = a b, or product += a b.
void multiply(int64_t rows, int64_t inner, int64_t columns, Matrix a, Matrix b, Matrix product, bool add) {
  if (has_small_products())
    return at::native::cpublas::brgemm(
        rows, columns, inner, a.stride, b.stride, product.stride, add, a.data, b.data, product.data, false);
  auto view = [](Matrix of, int64_t height, int64_t width) {
    return at::from_blob(of.data, {height, width}, {of.stride, 1}, at::kFloat);
  };
  auto to = view(product, rows, columns);
  if (add)
    to.addmm_(view(a, rows, inner), view(b, inner, columns));
  else
    at::mm_out(to, view(a, rows, inner), view(b, inner, columns));
}

// In float32 without gaps, with rows of zeros up to a multiple.
Tensor padded(const Tensor& tensor, int64_t unit) {
  auto whole = tensor.to(at::kFloat).contiguous();
  int64_t rows = whole.size(2), wanted = round_up(rows, unit);
  if (rows == wanted) return whole;
  auto made = at::zeros({whole.size(0), whole.size(1), wanted, whole.size(3)}, whole.options());
  made.narrow(2, 0, rows).copy_(whole);
  return made;
}

Tensor transposed(const Tensor& tensor) { return tensor.mT().contiguous(); }

// A matrix of a tensor [batch, heads, rows, columns] without gaps.
Matrix matrix(const Tensor& tensor, int64_t batch, int64_t head, int64_t row = 0, int64_t column = 0) {
  int64_t at = ((batch * tensor.size(1) + head) * tensor.size(2) + row) * tensor.size(3) + column;
  return {tensor.data_ptr<float>() + at, tensor.size(3)};
}

// What is broadcast to all scores, key by key.
template <class Element>
struct Broadcast {
  Tensor held;
  int64_t batch = 0, head = 0, row = 0;  // strides
  const Element* start = nullptr;

  Broadcast(const std::optional<Tensor>& given, at::ScalarType type, at::IntArrayRef sizes) {
    if (!given) return;
    auto tensor = given->to(type);
    while (tensor.dim() < 4) tensor = tensor.unsqueeze(0);
    held = transposed(tensor.expand({tensor.size(0), tensor.size(1), sizes[2], sizes[3]}));
    batch = held.size(0) == 1 ? 0 : held.stride(0);
    head = held.size(1) == 1 ? 0 : held.stride(1);
    row = held.stride(2);
    start = held.const_data_ptr<Element>();
  }
  explicit operator bool() const { return start; }
  const Element* at(int64_t b, int64_t h, int64_t key, int64_t query) const {
    return start + b * batch + h * head + key * row + query;
  }
};

struct Options {
  double scale;
  std::optional<Tensor> hidden, bias;
  bool bias_before_scale;
  std::optional<Tensor> sink, keep;
  double keep_prob;
};

// The block of queries that is computed, of one batch and head, and the keys that any of them sees.
struct Block {
  int64_t batch, head, query, queries, first, keys;
};

struct Attention {
  int64_t batches, heads, key_heads, queries, keys, size, width;
  float scale, bias_scale, kept_scale;
  Tensor query, query_columns, key, value, sink;
  Broadcast<bool> hidden, keep;
  Broadcast<float> bias;

  Attention(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options)
      : batches(q.size(0)), heads(q.size(1)), key_heads(k.size(1)), queries(q.size(2)), keys(k.size(2)),
        size(q.size(3)), width(v.size(3)), scale(options.scale),
        bias_scale(options.bias_before_scale ? options.scale : 1), kept_scale(1 / options.keep_prob),
        query(padded(q.to(at::kFloat) * options.scale, QUERIES)), query_columns(transposed(query)),
        key(padded(k, KEYS)), value(padded(v, KEYS)),
        sink(options.sink ? options.sink->to(at::kFloat).contiguous() : Tensor()),
        hidden(options.hidden, at::kBool, {batches, heads, queries, keys}),
        keep(options.keep, at::kBool, {batches, heads, queries, keys}),
        bias(options.bias, at::kFloat, {batches, heads, queries, keys}) {}

  int64_t of_keys(int64_t head) const { return head / (heads / key_heads); }

  int64_t most_scores() const { return key.size(2) * QUERIES; }

  Block block(int64_t batch, int64_t head, int64_t query) const {
    int64_t count = std::min(QUERIES, queries - query), first = 0, end = keys;
    auto sees = [&](int64_t at) { return memchr(hidden.at(batch, head, at, query), 0, count); };
    if (hidden) {
      while (first < end && !sees(first)) first++;
      while (first < end && !sees(end - 1)) end--;
    }
    first = first / KEYS * KEYS;
    return {batch, head, query, count, first, first < end ? round_up(end - first, KEYS) : 0};
  }

  // Scores of a block, minus infinity where a key is not seen.
  void scores(const Block& of, float* to) const {
    if (!of.keys) return;
    int64_t key_head = of_keys(of.head);
    multiply(of.keys, size, QUERIES, matrix(key, of.batch, key_head, of.first),
             matrix(query_columns, of.batch, of.head, 0, of.query), {to, QUERIES}, false);
    for (int64_t at = 0; at < of.keys; at++) {
      float* row = to + at * QUERIES;
      int64_t seen = of.first + at;
      if (seen >= keys) {
        std::fill(row, row + QUERIES, -INFINITE);
        continue;
      }
      if (bias) {
        auto added = bias.at(of.batch, of.head, seen, of.query);
        for (int64_t i = 0; i < of.queries; i++) row[i] += bias_scale * added[i];
      }
      if (hidden) {
        auto hides = hidden.at(of.batch, of.head, seen, of.query);
        if (memchr(hides, 1, of.queries))
          for (int64_t i = 0; i < of.queries; i++) row[i] = hides[i] ? -INFINITE : row[i];
      }
    }
  }

  // What dropout makes of a block's probabilities or of their gradient.
  void drop(const Block& of, float* of_scores) const {
    if (!keep) return;
    for (int64_t at = 0; at < of.keys && of.first + at < keys; at++) {
      auto kept = keep.at(of.batch, of.head, of.first + at, of.query);
      float* row = of_scores + at * QUERIES;
      for (int64_t i = 0; i < of.queries; i++) row[i] = kept[i] ? row[i] * kept_scale : 0;
    }
  }
};

struct Rows {
  float maximum[QUERIES], total[QUERIES];
};

// Each query's maximum, the sink's logit among them; 0 for one that sees nothing.
void find_maximum(const Attention& attention, const Block& of, const float* scores, Rows& rows) {
  std::fill(rows.maximum, rows.maximum + QUERIES,
            attention.sink.defined() ? attention.sink.data_ptr<float>()[of.head] : -INFINITE);
  for (int64_t at = 0; at < of.keys; at++)
    for (int64_t i = 0; i < QUERIES; i++)
      rows.maximum[i] = scores[at * QUERIES + i] > rows.maximum[i] ? scores[at * QUERIES + i] : rows.maximum[i];
  for (auto& maximum : rows.maximum) maximum = maximum == -INFINITE ? 0 : maximum;
}

// Replaces scores by exp(score - maximum): of powers of 2 the CPU makes several times as many.
void exponentiate(const Block& of, float* scores, const Rows& rows) {
  constexpr float log2_e = 1.44269504088896340736f;
  for (int64_t at = 0; at < of.keys; at++)
    for (int64_t i = 0; i < QUERIES; i++)
      scores[at * QUERIES + i] = (scores[at * QUERIES + i] - rows.maximum[i]) * log2_e;
  auto all = at::from_blob(scores, {of.keys * QUERIES}, at::kFloat);
  at::exp2_(all);
}

// Each query's sum of exponentials, the sink's among them.
void find_total(const Attention& attention, const Block& of, const float* exponentials, Rows& rows) {
  std::fill(rows.total, rows.total + QUERIES, 0.0f);
  for (int64_t from = 0; from < of.keys; from += KEYS) {
    float sums[QUERIES] = {};
    for (int64_t at = from; at < from + KEYS; at++)
      for (int64_t i = 0; i < QUERIES; i++) sums[i] += exponentials[at * QUERIES + i];
    for (int64_t i = 0; i < QUERIES; i++) rows.total[i] += sums[i];
  }
  if (attention.sink.defined())
    for (int64_t i = 0; i < QUERIES; i++)
      rows.total[i] += std::exp(attention.sink.data_ptr<float>()[of.head] - rows.maximum[i]);
}

void divide_by_total(const Block& of, float* exponentials, const Rows& rows) {
  float factor[QUERIES];
  for (int64_t i = 0; i < QUERIES; i++) factor[i] = rows.total[i] == 0 ? 0 : 1 / rows.total[i];
  for (int64_t at = 0; at < of.keys; at++)
    for (int64_t i = 0; i < QUERIES; i++) exponentials[at * QUERIES + i] *= factor[i];
}

Tensor like_rows(const Attention& attention, int64_t columns) {
  return at::zeros({attention.batches, attention.heads, attention.queries, columns}, at::kFloat);
}

// Writes a block's columns, [size, QUERIES], as rows of a result.
void write_rows(const Block& of, const float* columns, const Tensor& to, float scale) {
  auto [start, size] = matrix(to, of.batch, of.head, of.query);
  for (int64_t i = 0; i < of.queries; i++)
    for (int64_t j = 0; j < size; j++) start[i * size + j] = columns[j * QUERIES + i] * scale;
}

// softmax(scores) value: the result in float32, each row's maximum and sum; a row that sees nothing gives 0 for all.
std::tuple<Tensor, Tensor, Tensor> attend(
    const Tensor& query, const Tensor& key, const Tensor& value, double scale, const std::optional<Tensor>& hidden,
    const std::optional<Tensor>& bias, bool bias_before_scale, const std::optional<Tensor>& sink,
    const std::optional<Tensor>& keep, double keep_prob, bool rounded) {
  Attention attention(query, key, value, {scale, hidden, bias, bias_before_scale, sink, keep, keep_prob});
  auto value_columns = transposed(attention.value);
  auto result = like_rows(attention, attention.width), maximum = like_rows(attention, 1), total = like_rows(attention, 1);
  at::parallel_for(0, attention.batches * attention.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(attention.most_scores()), columns(attention.width * QUERIES);
    for (int64_t at = begin; at < end; at++)
      for (int64_t start = 0; start < attention.queries; start += QUERIES) {
        auto of = attention.block(at / attention.heads, at % attention.heads, start);
        Rows rows;
        attention.scores(of, scores.data());
        find_maximum(attention, of, scores.data(), rows);
        exponentiate(of, scores.data(), rows);
        find_total(attention, of, scores.data(), rows);
        std::copy(rows.maximum, rows.maximum + of.queries, matrix(maximum, of.batch, of.head, start).data);
        std::copy(rows.total, rows.total + of.queries, matrix(total, of.batch, of.head, start).data);
        if (!of.keys) continue;
        divide_by_total(of, scores.data(), rows);
        attention.drop(of, scores.data());
        if (rounded) {
          auto all = at::from_blob(scores.data(), {of.keys * QUERIES}, at::kFloat);
          all.copy_(all.to(value.scalar_type()));
        }
        multiply(attention.width, of.keys, QUERIES,
                 matrix(value_columns, of.batch, attention.of_keys(of.head), 0, of.first), {scores.data(), QUERIES},
                 {columns.data(), QUERIES}, false);
        write_rows(of, columns.data(), result, 1);
      }
  });
  return {result, maximum, total};
}

// Gradients of `attend`, those of key and value summed over the query heads that share them. The result, maximum and
// sum are those of all keys where these are a part of them; without them, those of these.
std::tuple<Tensor, Tensor, Tensor, std::optional<Tensor>, std::optional<Tensor>> attend_backward(
    const Tensor& query, const Tensor& key, const Tensor& value, double scale, const std::optional<Tensor>& hidden,
    const std::optional<Tensor>& bias, bool bias_before_scale, const std::optional<Tensor>& sink,
    const std::optional<Tensor>& keep, double keep_prob, const Tensor& d_result, const std::optional<Tensor>& result,
    const std::optional<Tensor>& maximum, const std::optional<Tensor>& total) {
  Attention attention(query, key, value, {scale, hidden, bias, bias_before_scale, sink, keep, keep_prob});
  auto key_columns = transposed(attention.key), d_out = padded(d_result, QUERIES), d_out_columns = transposed(d_out);
  Tensor inner;  // sum of result times gradient, a row's share in the gradient of its scores
  if (result) inner = padded((d_result.to(at::kFloat) * result->to(at::kFloat)).sum(-1, true), QUERIES);
  auto of_rows = [](const std::optional<Tensor>& tensor) {
    return tensor ? tensor->to(at::kFloat).contiguous() : Tensor();
  };
  auto known_maximum = of_rows(maximum), known_total = of_rows(total);
  auto d_query = like_rows(attention, attention.size), d_key = at::zeros_like(attention.key),
       d_value = at::zeros_like(attention.value);
  auto d_bias = bias ? like_rows(attention, attention.keys) : Tensor();
  auto d_sink = sink ? at::zeros({attention.batches, attention.heads}, at::kFloat) : Tensor();
  int64_t shared = attention.heads / attention.key_heads;

  at::parallel_for(0, attention.batches * attention.key_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(attention.most_scores()), d_scores(attention.most_scores()),
        dropped(keep ? attention.most_scores() : 0), columns(attention.size * QUERIES);
    for (int64_t at = begin * shared; at < end * shared; at++)
      for (int64_t start = 0; start < attention.queries; start += QUERIES) {
        auto of = attention.block(at / attention.heads, at % attention.heads, start);
        if (!of.keys) continue;
        int64_t key_head = attention.of_keys(of.head), count = of.keys * QUERIES;
        float *probabilities = scores.data(), *gradient = d_scores.data(), shares[QUERIES] = {};
        Rows rows = {};
        attention.scores(of, probabilities);
        if (known_maximum.defined())
          std::copy_n(matrix(known_maximum, of.batch, of.head, start).data, of.queries, rows.maximum);
        else
          find_maximum(attention, of, probabilities, rows);
        exponentiate(of, probabilities, rows);
        if (known_total.defined())
          std::copy_n(matrix(known_total, of.batch, of.head, start).data, of.queries, rows.total);
        else
          find_total(attention, of, probabilities, rows);
        divide_by_total(of, probabilities, rows);

        float* used = probabilities;
        if (keep) {
          used = std::copy_n(probabilities, count, dropped.data()) - count;
          attention.drop(of, used);
        }
        multiply(of.keys, QUERIES, attention.width, {used, QUERIES}, matrix(d_out, of.batch, of.head, start),
                 matrix(d_value, of.batch, key_head, of.first), true);
        multiply(of.keys, attention.width, QUERIES, matrix(attention.value, of.batch, key_head, of.first),
                 matrix(d_out_columns, of.batch, of.head, 0, start), {gradient, QUERIES}, false);
        attention.drop(of, gradient);
        if (inner.defined())
          std::copy_n(matrix(inner, of.batch, of.head, start).data, QUERIES, shares);
        else
          for (int64_t i = 0; i < count; i++) shares[i % QUERIES] += probabilities[i] * gradient[i];
        for (int64_t key_at = 0; key_at < of.keys; key_at++)
          for (int64_t i = 0; i < QUERIES; i++)
            gradient[key_at * QUERIES + i] =
                (gradient[key_at * QUERIES + i] - shares[i]) * probabilities[key_at * QUERIES + i];
        multiply(attention.size, of.keys, QUERIES, matrix(key_columns, of.batch, key_head, 0, of.first),
                 {gradient, QUERIES}, {columns.data(), QUERIES}, false);
        write_rows(of, columns.data(), d_query, attention.scale);
        multiply(of.keys, QUERIES, attention.size, {gradient, QUERIES},
                 matrix(attention.query, of.batch, of.head, start), matrix(d_key, of.batch, key_head, of.first), true);
        if (bias)
          for (int64_t key_at = 0; key_at < of.keys && of.first + key_at < attention.keys; key_at++)
            for (int64_t i = 0; i < of.queries; i++)
              matrix(d_bias, of.batch, of.head, start + i, of.first + key_at).data[0] =
                  gradient[key_at * QUERIES + i] * attention.bias_scale;
        if (sink)
          for (int64_t i = 0; i < of.queries; i++)
            if (rows.total[i] != 0)
              d_sink.data_ptr<float>()[at] -=
                  std::exp(attention.sink.data_ptr<float>()[of.head] - rows.maximum[i]) / rows.total[i] * shares[i];
      }
  });
  auto optional = [](Tensor tensor) { return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt; };
  return {d_query, d_key.narrow(2, 0, attention.keys), d_value.narrow(2, 0, attention.keys), optional(d_bias),
          optional(sink ? d_sink.sum(0) : Tensor())};
}

}  // namespace

#define OPTIONS \
  "Tensor query, Tensor key, Tensor value, float scale, Tensor? hidden, Tensor? bias, bool bias_before_scale, " \
  "Tensor? sink, Tensor? keep, float keep_prob"

TORCH_LIBRARY_FRAGMENT(longcat_emulator, library) {
  library.def("attend(" OPTIONS ", bool rounded) -> (Tensor result, Tensor maximum, Tensor total)", &attend);
  library.def("attend_backward(" OPTIONS ", Tensor d_result, Tensor? result, Tensor? maximum, Tensor? total) "
              "-> (Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? sink)", &attend_backward);
}
