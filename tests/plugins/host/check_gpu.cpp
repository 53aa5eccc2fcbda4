// enqueue on a GPU, compared with the CPU functions of the same library.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"
#include "mocks.h"
#include "reference.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

void cuda(cudaError_t error, const char* what) {
    if (error != cudaSuccess) throw Failure(std::string(what) + ": " + cudaGetErrorString(error));
}

#define CUDA(call) cuda(call, #call)

// A stream that does not wait for the default stream, as TensorRT advises.
class Stream {
  public:
    Stream() { CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }
    void wait() const { CUDA(cudaStreamSynchronize(stream_)); }

  private:
    cudaStream_t stream_ = nullptr;
};

// Device memory of exactly that size for the plugin: writes beyond it fall into guards. Like TensorRT's
// tensors it begins at a multiple of 256 bytes.
class DeviceBuffer {
  public:
    explicit DeviceBuffer(std::size_t bytes) : bytes_(bytes) {
        CUDA(cudaMalloc(&memory_, bytes + 2 * kGuard));
        CUDA(cudaMemset(memory_, kPattern, bytes + 2 * kGuard));
        CUDA(cudaDeviceSynchronize());
    }
    ~DeviceBuffer() { cudaFree(memory_); }
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;

    void* data() const { return static_cast<char*>(memory_) + kGuard; }

    void upload(const Bytes& from) {
        EXPECT_EQUAL(from.size(), bytes_);
        CUDA(cudaMemcpy(data(), from.data(), bytes_, cudaMemcpyHostToDevice));
        CUDA(cudaDeviceSynchronize());  // our streams do not wait for the copy
    }

    Bytes download() const {
        Bytes all(bytes_ + 2 * kGuard);
        CUDA(cudaMemcpy(all.data(), memory_, all.size(), cudaMemcpyDeviceToHost));
        for (std::size_t i = 0; i < kGuard; ++i) {
            EXPECT(all[i] == kPattern && all[all.size() - 1 - i] == kPattern);
        }
        return Bytes(all.begin() + kGuard, all.end() - kGuard);
    }

  private:
    static constexpr std::size_t kGuard = 256;
    static constexpr char kPattern = 0x7e;  // FP32 8e37, FP16 a NaN, INT32 2122219134: no result of a test
    std::size_t bytes_;
    void* memory_ = nullptr;
};

// A plugin with device memory for its tensors, as an execution context holds it.
class Execution {
  public:
    Execution(const Plugin& plugin, const Tensors& tensors) : plugin_(plugin), tensors_(tensors) {
        for (const auto& input : tensors.inputs) {
            inputs_.push_back(std::make_unique<DeviceBuffer>(stored_bytes(input)));
            input_pointers_.push_back(inputs_.back()->data());
        }
        for (const auto& output : tensors.outputs) {
            outputs_.push_back(std::make_unique<DeviceBuffer>(stored_bytes(output)));
            output_pointers_.push_back(outputs_.back()->data());
        }
        EXPECT_EQUAL(configure(plugin, exactly(tensors)), 0);
        workspace_ = std::make_unique<DeviceBuffer>(workspace(plugin, exactly(tensors)));
        EXPECT_EQUAL(plugin.runtime().setTactic(0), 0);
        EXPECT_EQUAL(change_shape(plugin, tensors), 0);
    }

    void upload(const std::vector<Bytes>& values) {
        for (std::size_t i = 0; i < values.size(); ++i) inputs_[i]->upload(values[i]);
    }

    void enqueue(const Stream& stream) const {
        const std::int32_t status =
            plugin_.runtime().enqueue(tensors_.inputs.data(), tensors_.outputs.data(), input_pointers_.data(),
                                      output_pointers_.data(), workspace_->data(), stream.get());
        if (status != 0) throw Failure("enqueue: " + library().last_error());
    }

    Bytes output(std::size_t which) const {
        workspace_->download();  // for its guards
        return outputs_[which]->download();
    }

  private:
    const Plugin& plugin_;
    Tensors tensors_;
    std::vector<std::unique_ptr<DeviceBuffer>> inputs_, outputs_;
    std::unique_ptr<DeviceBuffer> workspace_;
    std::vector<const void*> input_pointers_;
    std::vector<void*> output_pointers_;
};

// What `execution` does, as a CUDA graph.
class Graph {
  public:
    Graph(const Execution& execution, const Stream& stream) {
        execution.enqueue(
            stream);  // once before the capture, as TensorRT wants it: kernels are loaded lazily
        stream.wait();
        const cudaError_t begun = cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal);
        if (begun == cudaErrorNotSupported) throw Skipped("no CUDA graphs here");
        cuda(begun, "cudaStreamBeginCapture");
        execution.enqueue(stream);
        CUDA(cudaStreamEndCapture(stream.get(), &graph_));
        CUDA(cudaGraphInstantiate(&executable_, graph_, 0));
    }
    ~Graph() {
        cudaGraphExecDestroy(executable_);
        cudaGraphDestroy(graph_);
    }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void launch(const Stream& stream) const {
        CUDA(cudaGraphLaunch(executable_, stream.get()));
        stream.wait();
    }

  private:
    cudaGraph_t graph_ = nullptr;
    cudaGraphExec_t executable_ = nullptr;
};

void expect_pooled(const Execution& execution, const RoIAlignCase& which, const RoIAlignData& data) {
    const std::vector<float> found = unpack(execution.output(0), which.tensors().outputs[0]);
    RoIAlignCase linear = which;
    linear.features = linear.output = TensorFormat::kLINEAR;
    expect_close(found, pooled_on_cpu(linear, data), which.type);
}

void expect_suppressed(const Execution& execution, const NMSResult& expected) {
    EXPECT(execution.output(1) == bytes_of(expected.count));
    EXPECT(execution.output(0) == bytes_of(expected.indices));
}

void run_roi_align(const RoIAlignCase& which) {
    const Note note(which.text());
    const RoIAlignData data(which, 11);
    const Plugin plugin = create(kRoIAlign, which.fields(), TensorRTPhase::kRUNTIME);
    Execution execution(plugin, which.tensors());
    execution.upload(data.inputs(which));
    const Stream stream;
    execution.enqueue(stream);
    stream.wait();
    expect_pooled(execution, which, data);
}

// The attributes and sizes that take different ways through the kernel.
void run_format(DataType type, TensorFormat features, TensorFormat output) {
    RoIAlignCase which;
    which.type = type;
    which.features = features;
    which.output = output;
    for (const std::int64_t channels : {256, 5}) {
        for (const char* mode : {"avg", "max"}) {
            for (const std::int32_t aligned : {0, 1}) {
                for (const std::int32_t sampling_ratio : {0, 2}) {
                    which.sizes.channels = channels;
                    which.mode = mode;
                    which.aligned = aligned;
                    which.sampling_ratio = sampling_ratio;
                    run_roi_align(which);
                }
            }
        }
    }
    which.sizes.bins = 14;
    which.sizes.levels = 1;
    run_roi_align(which);
    which.sizes.bins = 32;
    which.sizes.levels = kMaxLevels;
    which.sizes.rois = 33;
    run_roi_align(which);
}

}  // namespace

GPU_CHECK(gpu_roi_align_fp32, "FP32 linear") {
    run_format(DataType::kFLOAT, TensorFormat::kLINEAR, TensorFormat::kLINEAR);
}

GPU_CHECK(gpu_roi_align_fp32_hwc_to_linear, "FP32 kHWC features, linear output") {
    run_format(DataType::kFLOAT, TensorFormat::kHWC, TensorFormat::kLINEAR);
}

GPU_CHECK(gpu_roi_align_fp32_hwc, "FP32 kHWC") {
    run_format(DataType::kFLOAT, TensorFormat::kHWC, TensorFormat::kHWC);
}

GPU_CHECK(gpu_roi_align_fp16, "FP16 linear") {
    run_format(DataType::kHALF, TensorFormat::kLINEAR, TensorFormat::kLINEAR);
}

GPU_CHECK(gpu_roi_align_fp16_hwc8_to_linear, "FP16 kHWC8 features, linear output") {
    run_format(DataType::kHALF, TensorFormat::kHWC8, TensorFormat::kLINEAR);
}

GPU_CHECK(gpu_roi_align_fp16_hwc8, "FP16 kHWC8") {
    run_format(DataType::kHALF, TensorFormat::kHWC8, TensorFormat::kHWC8);
}

GPU_CHECK(gpu_roi_align_graph, "a captured RoIAlign pools what its inputs hold at each launch") {
    RoIAlignCase which;
    which.type = DataType::kHALF;
    which.features = TensorFormat::kHWC8;
    which.sizes.channels = 256;
    which.sizes.rois = 100;
    const Plugin plugin = create(kRoIAlign, which.fields());
    Execution execution(plugin, which.tensors());
    const Stream stream;
    execution.upload(RoIAlignData(which, 1).inputs(which));
    const Graph graph(execution, stream);
    for (const std::uint32_t seed : {2u, 3u}) {
        const RoIAlignData data(which, seed);
        execution.upload(data.inputs(which));
        graph.launch(stream);
        expect_pooled(execution, which, data);
    }
}

GPU_CHECK(gpu_nms, "NMS keeps what the CPU keeps, ties and NaN scores included") {
    const Stream stream;
    for (const std::int64_t batch : {1, 3}) {
        for (const std::int64_t candidates : {1, 2, 31, 32, 33, 1000, 1025, 4819, 20000}) {
            for (const std::int32_t max_output : {1, 100, 5000}) {
                const Note note(std::to_string(batch) + " x " + std::to_string(candidates) + ", " +
                                std::to_string(max_output) + " kept");
                FieldList fields = nms_fields();
                const Plugin plugin =
                    create(kNMS, fields.integer("max_output", max_output), TensorRTPhase::kRUNTIME);
                const NMSData data(batch, candidates, 5);
                Execution execution(plugin, nms_tensors(batch, candidates, max_output));
                execution.upload(data.inputs());
                const NMSResult expected = suppressed_on_cpu(batch, candidates, max_output, data);
                for (int run = 0; run < 2; ++run) {  // the workspace of the first run must not matter
                    execution.enqueue(stream);
                    stream.wait();
                    expect_suppressed(execution, expected);
                }
            }
        }
    }
}

namespace {

void run_roi_pool(DataType type) {
    for (const std::int64_t bins : {7, 1, 32}) {
        const Tensors tensors = roi_pool_tensors(2, 33, type, bins);
        const auto side = static_cast<std::int32_t>(bins);
        FieldList fields = roi_pool_fields();
        const Plugin plugin =
            create(kRoIPool, fields.integers("pooled_shape", {side, side}), TensorRTPhase::kRUNTIME);
        const RoIPoolData data(tensors, 3);
        Execution execution(plugin, tensors);
        execution.upload(data.inputs);
        const Stream stream;
        execution.enqueue(stream);
        stream.wait();
        EXPECT(execution.output(0) == data.pooled_on_cpu(tensors));
    }
}

}  // namespace

GPU_CHECK(gpu_roi_pool_fp32, "RoIPool of FP32, equal to the last bit") { run_roi_pool(DataType::kFLOAT); }

GPU_CHECK(gpu_roi_pool_fp16, "RoIPool of FP16, equal to the last bit") { run_roi_pool(DataType::kHALF); }

GPU_CHECK(gpu_roi_pool_graph, "a captured RoIPool pools what its inputs hold at each launch") {
    const Tensors tensors = roi_pool_tensors();
    const Plugin plugin = create(kRoIPool, roi_pool_fields());
    Execution execution(plugin, tensors);
    const Stream stream;
    execution.upload(RoIPoolData(tensors, 1).inputs);
    const Graph graph(execution, stream);
    for (const std::uint32_t seed : {2u, 3u}) {
        const RoIPoolData data(tensors, seed);
        execution.upload(data.inputs);
        graph.launch(stream);
        EXPECT(execution.output(0) == data.pooled_on_cpu(tensors));
    }
}

GPU_CHECK(gpu_nms_graph, "a captured NMS suppresses what its inputs hold at each launch") {
    const Plugin plugin = create(kNMS, nms_fields());
    Execution execution(plugin, nms_tensors(2, 4819));
    const Stream stream;
    execution.upload(NMSData(2, 4819, 1).inputs());
    const Graph graph(execution, stream);
    for (const std::uint32_t seed : {2u, 3u}) {
        const NMSData data(2, 4819, seed);
        execution.upload(data.inputs());
        graph.launch(stream);
        expect_suppressed(execution, suppressed_on_cpu(2, 4819, 100, data));
    }
}

GPU_CHECK(gpu_nothing, "no RoIs leave the output alone; no candidates give zeros and counts of 0") {
    const Stream stream;
    RoIAlignCase which;
    which.sizes.rois = 0;
    run_roi_align(which);
    const Plugin nms = create(kNMS, nms_fields());
    for (const std::int64_t batch : {0, 2}) {
        Execution execution(nms, nms_tensors(batch, 0));
        execution.enqueue(stream);
        stream.wait();
        expect_suppressed(execution, {std::vector<std::int32_t>(static_cast<std::size_t>(batch) * 100),
                                      std::vector<std::int32_t>(static_cast<std::size_t>(batch))});
    }
}

GPU_CHECK(gpu_contexts, "two contexts attached to one plugin run at once on their own streams") {
    ResourceContext contexts[2];
    const NMSData data[2] = {NMSData(1, 4819, 1), NMSData(1, 4819, 2)};
    std::unique_ptr<Plugin> plugins[2];
    {
        const Plugin original = create(kNMS, nms_fields(), TensorRTPhase::kRUNTIME);
        for (int i = 0; i < 2; ++i) {
            plugins[i] = std::make_unique<Plugin>(original.runtime().attachToContext(&contexts[i]));
        }
    }
    Execution first(*plugins[0], nms_tensors(1, 4819)), second(*plugins[1], nms_tensors(1, 4819));
    first.upload(data[0].inputs());
    second.upload(data[1].inputs());
    const Stream streams[2];
    for (int run = 0; run < 20; ++run) {
        first.enqueue(streams[0]);
        second.enqueue(streams[1]);
    }
    streams[0].wait();
    streams[1].wait();
    expect_suppressed(first, suppressed_on_cpu(1, 4819, 100, data[0]));
    expect_suppressed(second, suppressed_on_cpu(1, 4819, 100, data[1]));
}

GPU_CHECK(gpu_errors_leave_nothing, "a call after a refused one works: no error of CUDA is left over") {
    const Plugin plugin = create(kNMS, nms_fields());
    Tensors tensors = nms_tensors(1, 100);
    Execution execution(plugin, tensors);
    const NMSData data(1, 100, 1);
    execution.upload(data.inputs());
    const Stream stream;
    std::vector<const void*> inputs(3, nullptr);
    std::vector<void*> outputs(2, nullptr);
    EXPECT_REFUSED(plugin.runtime().enqueue(tensors.inputs.data(), tensors.outputs.data(), inputs.data(),
                                            outputs.data(), nullptr, stream.get()) == 0,
                   "null");
    execution.enqueue(stream);
    stream.wait();
    expect_suppressed(execution, suppressed_on_cpu(1, 100, 100, data));
}

}  // namespace host
