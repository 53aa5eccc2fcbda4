// RoIAlign on the CPU: the samples of a RoI are found once and used for all its channels.

#include <algorithm>
#include <cstdint>
#include <new>
#include <vector>

#include "common/error.h"
#include "common/half.h"
#include "roi_align/roi_align.h"
#include "roi_align/roi_align_check.h"
#include "roi_align/roi_align_math.h"

namespace mrcnn {
namespace {

// One sample: four pixels (their numbers within a plane) and their weights.
struct Sample {
    std::int64_t pixel[4];
    float weight[4];
};

// All samples of a RoI inside its map, bin by bin.
struct Samples {
    std::vector<Sample> all;
    std::vector<std::size_t> end;  // of each bin; a bin begins where the one before it ends
    std::vector<bool> complete;    // whether no sample of the bin lies outside the map
    float scale;                   // 1 / the number of samples of a bin, those outside included
};

void find_samples(const MrcnnRoIAlignParams& params, const MrcnnFeatureLevel& level, const Box& roi,
                  Samples* samples) {
    const auto axis = [&](float low, float high) {
        return make_axis(low, high, level.spatial_scale, params.aligned != 0, params.output_size,
                         params.sampling_ratio);
    };
    const Axis y_axis = axis(roi.y1, roi.y2), x_axis = axis(roi.x1, roi.x2);
    samples->scale = inverse_count(y_axis, x_axis);
    samples->all.clear();
    samples->end.clear();
    samples->complete.clear();
    for (int bin_y = 0; bin_y < params.output_size; ++bin_y) {
        const SampleRange rows = sample_range(y_axis, bin_y, level.height);
        for (int bin_x = 0; bin_x < params.output_size; ++bin_x) {
            const SampleRange columns = sample_range(x_axis, bin_x, level.width);
            const std::size_t begin = samples->all.size();
            for (int i = rows.first; i < rows.last; ++i) {
                Neighbours y;
                if (!find_neighbours(sample_position(y_axis, bin_y, i), level.height, &y)) continue;
                for (int j = columns.first; j < columns.last; ++j) {
                    Neighbours x;
                    if (!find_neighbours(sample_position(x_axis, bin_x, j), level.width, &x)) continue;
                    const std::int64_t above = static_cast<std::int64_t>(y.low) * level.width;
                    const std::int64_t below = static_cast<std::int64_t>(y.high) * level.width;
                    samples->all.push_back({{above + x.low, above + x.high, below + x.low, below + x.high},
                                            {y.low_weight * x.low_weight, y.low_weight * x.high_weight,
                                             y.high_weight * x.low_weight, y.high_weight * x.high_weight}});
                }
            }
            const std::size_t inside = samples->all.size() - begin;
            const auto expected =
                static_cast<std::size_t>(y_axis.grid) * static_cast<std::size_t>(x_axis.grid);
            samples->end.push_back(samples->all.size());
            samples->complete.push_back(inside == expected && expected > 0);
        }
    }
}

// One bin of one channel; pixel p of the channel is map[p * stride].
template <typename T>
float pool(const T* map, std::int64_t stride, const Sample* begin, const Sample* end, bool take_max,
           bool complete) {
    float sum = 0.0f;
    float largest = complete ? -INFINITY : 0.0f;
    for (const Sample* sample = begin; sample != end; ++sample) {
        const auto at = [&](int corner) { return to_float(map[sample->pixel[corner] * stride]); };
        const float value = sample->weight[0] * at(0) + sample->weight[1] * at(1) +
                            sample->weight[2] * at(2) + sample->weight[3] * at(3);
        sum += value;
        largest = value > largest ? value : largest;
    }
    return take_max ? largest : sum;
}

template <typename T>
void pool_all(const MrcnnRoIAlignParams& params, const float* rois, T* output) {
    float thresholds[MRCNN_MAX_LEVELS] = {};
    mrcnnRoIAlignLevelThresholds(&params, thresholds);
    const bool last = params.feature_layout == MRCNN_CHANNELS_LAST;
    const bool output_last = params.output_layout == MRCNN_CHANNELS_LAST;
    const std::int64_t stored = stored_channels(params, params.feature_layout);
    const std::int64_t output_stored = stored_channels(params, params.output_layout);
    const std::int64_t bins = static_cast<std::int64_t>(params.output_size) * params.output_size;
    const std::int64_t count = static_cast<std::int64_t>(params.batch) * params.rois_per_image;
    Samples samples;
    for (std::int64_t n = 0; n < count; ++n) {
        const Box roi{rois[4 * n], rois[4 * n + 1], rois[4 * n + 2], rois[4 * n + 3]};
        const MrcnnFeatureLevel& level = params.levels[level_of(roi, thresholds, params.num_levels)];
        find_samples(params, level, roi, &samples);
        const float scale = params.mode == MRCNN_MAX ? 1.0f : samples.scale;
        const std::int64_t plane = static_cast<std::int64_t>(level.height) * level.width;
        const T* image = static_cast<const T*>(level.data) + n / params.rois_per_image * plane * stored;
        T* pooled = output + n * bins * output_stored;
        for (std::int64_t c = 0; c < output_stored; ++c) {
            const T* map = last ? image + c : image + c * plane;
            std::size_t begin = 0;
            for (std::int64_t bin = 0; bin < bins; ++bin) {
                const std::size_t end = samples.end[static_cast<std::size_t>(bin)];
                float value = 0.0f;  // also what fills up the channels of a padded layout
                if (c < params.channels) {
                    value = scale * pool(map, last ? stored : 1, samples.all.data() + begin,
                                         samples.all.data() + end, params.mode == MRCNN_MAX,
                                         samples.complete[static_cast<std::size_t>(bin)]);
                }
                pooled[output_last ? bin * output_stored + c : c * bins + bin] = from_float<T>(value);
                begin = end;
            }
        }
    }
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnRoIAlignCpu(const MrcnnRoIAlignParams* params, const float* rois, void* output) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, rois, output));
    if (mrcnn::nothing_to_pool(*params)) return MRCNN_OK;
    try {
        if (params->type == MRCNN_FLOAT16) {
            mrcnn::pool_all(*params, rois, static_cast<mrcnn::Half*>(output));
        } else {
            mrcnn::pool_all(*params, rois, static_cast<float*>(output));
        }
    } catch (const std::bad_alloc&) {
        return mrcnn::fail(MRCNN_OUT_OF_MEMORY, "RoIAlign: not enough memory for the samples of a RoI");
    }
    return MRCNN_OK;
}
