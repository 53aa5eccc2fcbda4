// What TensorRT's library would hand to a plugin. NVIDIA forbids to derive from these classes in products,
// since their layout may change; for a test that is compiled with the headers in use, that does no harm.
#ifndef MRCNN_TESTS_PLUGINS_HOST_MOCKS_H_
#define MRCNN_TESTS_PLUGINS_HOST_MOCKS_H_

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace host {

// A dimension: a constant, or one that the plugin must not know though the host does.
class Expr final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
  public:
    Expr(std::int64_t value, bool constant) : value_(value), constant_(constant) { mImpl = this; }

    std::int64_t value() const { return value_; }

    // IDimensionExpr calls these through mImpl.
    bool isConstant() const override { return constant_; }
    bool isSizeTensor() const override { return false; }
    std::int64_t getConstantValue() const override {
        return constant_ ? value_ : std::numeric_limits<std::int64_t>::min();
    }

  private:
    std::int64_t value_;
    bool constant_;
};

inline const Expr& expr(const nvinfer1::IDimensionExpr* expression) {
    return static_cast<const Expr&>(*expression);
}

// Makes expressions and owns them. What is computed from unknown dimensions is unknown.
class ExprBuilder final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
  public:
    ExprBuilder() { mImpl = this; }

    const Expr* known(std::int64_t value) { return keep(value, true); }
    const Expr* unknown(std::int64_t value) { return keep(value, false); }

    // How many outputs of sizes that depend on data were declared.
    int size_tensors() const { return size_tensors_; }

    const nvinfer1::IDimensionExpr* constant(std::int64_t value) override { return known(value); }

    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                              const nvinfer1::IDimensionExpr& first,
                                              const nvinfer1::IDimensionExpr& second) override {
        const std::int64_t a = expr(&first).value(), b = expr(&second).value();
        const bool constant = first.isConstant() && second.isConstant();
        switch (op) {
            case nvinfer1::DimensionOperation::kSUM:
                return keep(a + b, constant);
            case nvinfer1::DimensionOperation::kPROD:
                return keep(a * b, constant);
            case nvinfer1::DimensionOperation::kMAX:
                return keep(std::max(a, b), constant);
            case nvinfer1::DimensionOperation::kMIN:
                return keep(std::min(a, b), constant);
            case nvinfer1::DimensionOperation::kSUB:
                return keep(a - b, constant);
            case nvinfer1::DimensionOperation::kEQUAL:
                return keep(a == b ? 1 : 0, constant);
            case nvinfer1::DimensionOperation::kLESS:
                return keep(a < b ? 1 : 0, constant);
            case nvinfer1::DimensionOperation::kFLOOR_DIV:
                return keep(a / b, constant);
            case nvinfer1::DimensionOperation::kCEIL_DIV:
                return keep((a + b - 1) / b, constant);
        }
        return nullptr;
    }

    const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t, const nvinfer1::IDimensionExpr&,
                                                      const nvinfer1::IDimensionExpr& upper) override {
        ++size_tensors_;
        return keep(expr(&upper).value(), false);
    }

  private:
    const Expr* keep(std::int64_t value, bool constant) {
        expressions_.push_back(std::make_unique<Expr>(value, constant));
        return expressions_.back().get();
    }

    std::vector<std::unique_ptr<Expr>> expressions_;
    int size_tensors_ = 0;
};

// A context that lends nothing. TensorRT deletes what a context's plugins were attached to before the
// context.
class ResourceContext final : public nvinfer1::IPluginResourceContext {
  public:
    nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// A finder that remembers whether it was asked. The plugins must not: the logger's interface changed in 11.0.
class LoggerFinder final : public nvinfer1::ILoggerFinder {
  public:
    nvinfer1::ILogger* findLogger() override {
        ++asked;
        return nullptr;
    }
    int asked = 0;
};

}  // namespace host

#endif  // MRCNN_TESTS_PLUGINS_HOST_MOCKS_H_
