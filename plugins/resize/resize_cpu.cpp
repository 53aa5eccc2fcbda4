// Resize on the CPU. Each source row that is sampled is blended along its columns once, into a row of floats;
// two of these at a time make a row of the output.

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#include "common/error.h"
#include "resize/resize.h"
#include "resize/resize_check.h"
#include "resize/resize_math.h"

namespace mrcnn {
namespace {

// Vectors of GCC and Clang, which every CPU that these compile for has. A pixel is three lanes of four.
using Lanes = float __attribute__((vector_size(16)));
using Words = std::int32_t __attribute__((vector_size(16)));

// The three bytes of a pixel, taken out of a word of four where they lie: byte k is too large by 2^(8 k),
// which the weights make up for. Powers of two change no rounding.
constexpr Words kBytes = {0xff, 0xff00, 0xff0000, 0};
constexpr Lanes kInverse = {1.0f, 1.0f / 256, 1.0f / 65536, 0.0f};

// A column of the result: where in a source row its pixels begin, in bytes, and their weights by lane.
struct Column {
    std::int32_t first, second;
    Lanes rest, weight;
};

template <bool kSwap>
Lanes load_pixel(const std::uint8_t* pixel) {
    std::uint32_t word;
    std::memcpy(&word, pixel, sizeof word);
    if (kSwap) word = __builtin_bswap32(word) >> 8;
    const auto bits = static_cast<std::int32_t>(word);
    return __builtin_convertvector(Words{bits, bits, bits, bits} & kBytes, Lanes);
}

// The source, and how its columns become the result's.
class Source {
  public:
    Source(const MrcnnResizeParams& params, const void* data)
        : params_(params), data_(static_cast<const std::uint8_t*>(data)) {
        const float scale = resize_scale(params.source_width, params.target_width);
        columns_.reserve(static_cast<std::size_t>(params.target_width));
        for (std::int32_t x = 0; x < params.target_width; ++x) {
            const Taps taps = taps_of(x, params.source_width, scale);
            columns_.push_back(
                {3 * taps.first, 3 * taps.second, (1.0f - taps.weight) * kInverse, taps.weight * kInverse});
            // A word at the last pixel would reach past the row.
            if (taps.second + 1 < params.source_width) words_ = x + 1;
        }
    }

    // (3 * target_width,) values of source row `y`, and one more that means nothing.
    void blend_columns(std::int32_t y, float* out) const {
        const std::uint8_t* row = data_ + y * params_.source_pitch;
        params_.swap_channels != 0 ? blend_columns<true>(row, out) : blend_columns<false>(row, out);
    }

  private:
    template <bool kSwap>
    void blend_columns(const std::uint8_t* row, float* out) const {
        const Column* columns = columns_.data();
        for (std::int32_t x = 0; x < words_; ++x, out += 3) {  // the fourth lane is written over
            const Column& column = columns[x];
            const Lanes values = load_pixel<kSwap>(row + column.first) * column.rest +
                                 load_pixel<kSwap>(row + column.second) * column.weight;
            std::memcpy(out, &values, sizeof values);
        }
        for (std::int32_t x = words_; x < params_.target_width; ++x, out += 3) {
            const Column& column = columns[x];
            for (int channel = 0; channel < 3; ++channel) {
                const int from = kSwap ? 2 - channel : channel;
                out[channel] = blend(row[column.first + from], row[column.second + from], column.weight[0]);
            }
        }
    }

    MrcnnResizeParams params_;
    const std::uint8_t* data_;
    std::vector<Column> columns_;
    std::int32_t words_ = 0;  // columns whose pixels can be loaded as words; the first ones
};

// The two rows last blended. A row of the output needs the one before it and the next, or both anew.
class Rows {
  public:
    Rows(const Source& source, std::int32_t width) : source_(source) {
        for (Row& row : rows_) row.values.resize(3 * static_cast<std::size_t>(width) + 1);
    }

    // The values of source row `y`, without losing those of `other`.
    const float* get(std::int32_t y, std::int32_t other) {
        for (const Row& row : rows_) {
            if (row.y == y) return row.values.data();
        }
        Row& row = rows_[rows_[0].y == other ? 1 : 0];
        row.y = y;
        source_.blend_columns(y, row.values.data());
        return row.values.data();
    }

  private:
    struct Row {
        std::int32_t y = -1;
        std::vector<float> values;
    };
    const Source& source_;
    Row rows_[2];
};

void store(float value, float* to) { *to = value; }
void store(float value, std::uint8_t* to) { *to = round_to_byte(value); }

template <typename T>
void resize(const MrcnnResizeParams& p, const void* data, T* output) {
    const Source source(p, data);
    Rows rows(source, p.target_width);
    const float scale = resize_scale(p.source_height, p.target_height);
    const std::size_t width = 3 * static_cast<std::size_t>(p.target_width);
    const std::size_t stride = 3 * static_cast<std::size_t>(p.padded_width);
    for (std::int32_t y = 0; y < p.target_height; ++y, output += stride) {
        const Taps taps = taps_of(y, p.source_height, scale);
        const float* above = rows.get(taps.first, taps.second);
        const float* below = rows.get(taps.second, taps.first);
        for (std::size_t i = 0; i < width; ++i) store(blend(above[i], below[i], taps.weight), output + i);
        std::memset(output + width, 0, (stride - width) * sizeof(T));
    }
    const auto below = static_cast<std::size_t>(p.padded_height - p.target_height);
    std::memset(output, 0, below * stride * sizeof(T));
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnResizeCpu(const MrcnnResizeParams* params, const void* source, void* output) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, source, output));
    try {
        if (params->output_type == MRCNN_FLOAT32) {
            mrcnn::resize(*params, source, static_cast<float*>(output));
        } else {
            mrcnn::resize(*params, source, static_cast<std::uint8_t*>(output));
        }
    } catch (const std::bad_alloc&) {
        return mrcnn::fail(MRCNN_OUT_OF_MEMORY, "Resize: not enough memory for rows of %d pixels",
                           params->target_width);
    }
    return MRCNN_OK;
}
