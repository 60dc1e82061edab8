// SPDX-License-Identifier: Apache-2.0
#include <cudnn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <utility>

#include "device.h"
#include "devices/cudnn/layers.h"
#include "devices/cudnn/products.h"
#include "gpu_space.h"

namespace dsgd {
namespace cuda {

static void check(cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  char detail[512] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  fail(fmt::format("{} {}", cudnnGetErrorString(status), detail).c_str(), call, file, line);
}

namespace {

// What all plans of a process share. Each of the two streams has its own handle.
struct Library {
  static std::shared_ptr<const Library> of_this_process() {  // not destroyed, as its space
    static const auto* const one = new auto(std::make_shared<const Library>());
    return *one;
  }
  Library() {
    for (cudnnHandle_t& h : dnn) DSGD_CHECK(cudnnCreate(&h));
    DSGD_CHECK(cudnnSetStream(dnn[0], space.stream()));
    DSGD_CHECK(cudnnSetStream(dnn[1], side));
  }
  Library(const Library&) = delete;
  ~Library() {
    for (cudnnHandle_t h : dnn) cudnnDestroy(h);
  }
  const GpuSpace& space = gpu_space();
  Stream side;  // gradients of parameters, beside those of data on the space's stream
  cudnnHandle_t dnn[2] = {};
  Products products;
};

template <class D, cudnnStatus_t (*create)(D*), cudnnStatus_t (*destroy)(D)>
class Descriptor {
 public:
  Descriptor() { check(create(&d_), "create a descriptor", __FILE__, __LINE__); }
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() { destroy(d_); }
  operator D() const { return d_; }

 private:
  D d_ = nullptr;
};
using Tensor = Descriptor<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using Filter = Descriptor<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
using Correlation = Descriptor<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor,
                               cudnnDestroyConvolutionDescriptor>;

// A convolution without its bias. Its algorithms are those that cuDNN's heuristics put first among the
// deterministic ones, so that equal programs on equal GPUs give equal bits.
class Convolution {
  static constexpr float one = 1, zero = 0;
  static constexpr std::size_t most = std::size_t(1) << 30;  // bytes of workspace

  template <class Results>
  auto choose(const Results& results, int found, int which, cudnnMathType_t math,
              const PlacedLayer& p) const {
    for (int i = 0; i < found; ++i) {
      const auto& r = results[i];
      const bool exact = math == CUDNN_FMA_MATH,
                 tensor_cores = r.mathType != CUDNN_FMA_MATH && r.mathType != CUDNN_DEFAULT_MATH;
      if (r.status != CUDNN_STATUS_SUCCESS || r.determinism != CUDNN_DETERMINISTIC || r.memory > most ||
          (exact && tensor_cores))
        continue;
      if (!exact) DSGD_CHECK(cudnnSetConvolutionMathType(how_[which], r.mathType));
      return r.algo;
    }
    throw std::runtime_error(
        fmt::format("cuDNN has no deterministic algorithm for {} of {} here; use another "
                    "precision or device",
                    to_string(p.spec), to_string(p.in)));
  }

 public:
  Convolution(const Library& library, const PlacedLayer& p, const Conv2d& l, int batch, Precision precision)
      : library_(library) {
    const cudnnDataType_t type = precision == Precision::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    const cudnnMathType_t math = precision == Precision::fp32   ? CUDNN_FMA_MATH
                                 : precision == Precision::tf32 ? CUDNN_DEFAULT_MATH
                                                                : CUDNN_TENSOR_OP_MATH;
    DSGD_CHECK(cudnnSetTensor4dDescriptor(x_, CUDNN_TENSOR_NCHW, type, batch, p.in.channels, p.in.height,
                                          p.in.width));
    DSGD_CHECK(cudnnSetTensor4dDescriptor(y_, CUDNN_TENSOR_NCHW, type, batch, p.out.channels, p.out.height,
                                          p.out.width));
    DSGD_CHECK(cudnnSetFilter4dDescriptor(w_, type, CUDNN_TENSOR_NCHW, l.filters, p.in.channels, l.kernel,
                                          l.kernel));
    for (const Correlation& c : how_) {
      DSGD_CHECK(cudnnSetConvolution2dDescriptor(c, l.pad, l.pad, l.stride, l.stride, 1, 1,
                                                 CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
      DSGD_CHECK(cudnnSetConvolutionMathType(c, math));
    }
    const cudnnHandle_t h = library.dnn[0];
    int found = 0;
    std::array<cudnnConvolutionFwdAlgoPerf_t, CUDNN_CONVOLUTION_FWD_ALGO_COUNT> forward;
    DSGD_CHECK(cudnnGetConvolutionForwardAlgorithm_v7(h, x_, w_, how_[0], y_, int(forward.size()), &found,
                                                      forward.data()));
    forward_ = choose(forward, found, 0, math, p);
    std::array<cudnnConvolutionBwdFilterAlgoPerf_t, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT> weights;
    DSGD_CHECK(cudnnGetConvolutionBackwardFilterAlgorithm_v7(h, x_, y_, how_[1], w_, int(weights.size()),
                                                             &found, weights.data()));
    weights_ = choose(weights, found, 1, math, p);
    std::array<cudnnConvolutionBwdDataAlgoPerf_t, CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT> data;
    DSGD_CHECK(cudnnGetConvolutionBackwardDataAlgorithm_v7(h, w_, y_, how_[2], x_, int(data.size()), &found,
                                                           data.data()));
    data_ = choose(data, found, 2, math, p);
    DSGD_CHECK(cudnnGetConvolutionForwardWorkspaceSize(h, x_, w_, how_[0], y_, forward_, &bytes_[0]));
    DSGD_CHECK(cudnnGetConvolutionBackwardFilterWorkspaceSize(h, x_, y_, how_[1], w_, weights_, &bytes_[1]));
    DSGD_CHECK(cudnnGetConvolutionBackwardDataWorkspaceSize(h, w_, y_, how_[2], x_, data_, &bytes_[2]));
  }
  // Bytes of workspace on the stream of the data and on that of the parameters.
  std::size_t workspace(int stream) const { return stream == 0 ? std::max(bytes_[0], bytes_[2]) : bytes_[1]; }

  void forward(const void* x, const void* w, void* y, void* workspace) const {
    DSGD_CHECK(cudnnConvolutionForward(library_.dnn[0], &one, x_, x, w_, w, how_[0], forward_, workspace,
                                       bytes_[0], &zero, y_, y));
  }
  void weights(const void* x, const void* dy, void* dw, void* workspace) const {  // on the side stream
    DSGD_CHECK(cudnnConvolutionBackwardFilter(library_.dnn[1], &one, x_, x, y_, dy, how_[1], weights_,
                                              workspace, bytes_[1], &zero, w_, dw));
  }
  void data(const void* w, const void* dy, void* dx, void* workspace) const {
    DSGD_CHECK(cudnnConvolutionBackwardData(library_.dnn[0], &one, w_, w, y_, dy, how_[2], data_, workspace,
                                            bytes_[2], &zero, x_, dx));
  }
  std::string algorithms() const {
    return fmt::format("cuDNN's algorithms {}, {}, {}", int(forward_), int(weights_), int(data_));
  }

 private:
  const Library& library_;
  Tensor x_, y_;
  Filter w_;
  Correlation how_[3];  // forward, weights, data
  cudnnConvolutionFwdAlgo_t forward_{};
  cudnnConvolutionBwdFilterAlgo_t weights_{};
  cudnnConvolutionBwdDataAlgo_t data_{};
  std::size_t bytes_[3] = {};
};

// A set's samples on the GPU.
struct Resident {
  static std::shared_ptr<Resident> of(const Samples& s, const GpuSpace& space) {
    auto kept = std::static_pointer_cast<Resident>(s.kept);
    const auto same = [](const Samples::Affine& a, const Samples::Affine& b) {
      return a.scale == b.scale && a.shift == b.shift;
    };
    if (kept && kept->from == s.pixels.data() && kept->count == s.count &&
        std::equal(kept->channels.begin(), kept->channels.end(), s.channels.begin(), s.channels.end(), same))
      return kept;
    kept = std::make_shared<Resident>();
    static std::atomic<std::uint64_t> made = 0;
    kept->number = ++made;
    kept->from = s.pixels.data();
    kept->count = s.count;
    kept->channels = s.channels;
    auto affine = s.channels;
    if (affine.empty()) affine.assign(std::size_t(s.shape.channels), {1.0f / 255, 0});
    const auto upload = [&](const auto& v) {
      const std::size_t bytes = v.size() * sizeof v[0];
      Memory m = Memory::device(bytes);
      DSGD_CHECK(cudaMemcpyAsync(m.data(), v.data(), bytes, cudaMemcpyHostToDevice, space.stream()));
      return m;
    };
    kept->pixels = upload(s.pixels);
    kept->labels = upload(s.labels);
    kept->affine = upload(affine);
    space.wait();
    s.kept = kept;
    return kept;
  }
  std::uint64_t number = 0;  // no other one's, ever
  const void* from = nullptr;
  std::size_t count = 0;
  std::vector<Samples::Affine> channels;
  Memory pixels, labels, affine;
};

std::optional<Act> activation(const LayerSpec* spec) {
  if (!spec) return std::nullopt;
  if (std::get_if<Relu>(spec)) return Act::relu;
  if (std::get_if<Sigmoid>(spec)) return Act::sigmoid;
  if (std::get_if<Tanh>(spec)) return Act::tanh;
  return std::nullopt;
}

Image image(const Shape& s) { return {s.channels, s.height, s.width}; }

// The constructor walks over the layers and emits steps that enqueue work on the plan's streams; running them
// is the eager way, running them once more under capture makes the graph of a step. w_ and g_ are bound
// before. The minibatch has always `batch` rows: those beyond n are 0 in x and in the gradient at the end,
// add nothing, and stay out of batch norm's moments.
class CudnnPlan final : public Plan {
 public:
  CudnnPlan(const Network& net, int batch, Precision precision, std::shared_ptr<const Library> library);
  ~CudnnPlan() override;

  const float* forward(ConstVec w, const float* x, int n, const Moments* given) override;
  void backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) override;
  using Plan::gradient;
  using Plan::score;
  PendingLoss gradient(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                       const Augmentation& how, Vec g, const OnReady& ready) override {
    return step(w, from, ids, how, g, ready, nullptr);
  }
  PendingLoss descend(ConstVec at, const Samples& from, std::span<const std::uint32_t> ids,
                      const Augmentation& how, Vec g, const Descent& descent) override {
    if (descent.w.space != &library_->space) return Plan::descend(at, from, ids, how, g, descent);
    return step(at, from, ids, how, g, {}, &descent);
  }
  Loss score(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
             const Moments* given) override;
  std::vector<std::string> implementations() const override { return implementations_; }
  int reorders() const override { return copies_; }

 private:
  using Steps = std::vector<std::function<void()>>;

  // Layers that are computed together.
  struct Unit {
    PlacedLayer p;
    Image in, out;
    Act act = Act::none;
    std::optional<Window> pool;  // after a convolution
    Image pooled{};              // what it takes
    int earlier = -1;            // unit whose input is added
    int stride = 1;              // of the pixels taken of it
    const void* x = nullptr;     // activations
    void* y = nullptr;
    void* dx = nullptr;  // gradients
    void* dy = nullptr;
  };
  std::vector<Unit> units(const Network& net) const;

  // Where a part of the flat vector is, for libraries that want aligned addresses or another type.
  struct Bound {
    std::size_t at;
    bool own;  // or in the caller's vector
  };
  struct Copies {
    Type type;
    std::unique_ptr<Kernels> kernels;
    std::vector<Piece> pieces{};
    std::size_t size = 0;  // elements
    Memory data{}, table{};
  };
  Bound bind(Copies& to, std::size_t first, std::size_t count) {
    if (to.type == Type::f32 && first % 4 == 0) return {first, false};
    to.pieces.push_back({first, to.size, count});
    const Bound place{to.size, true};
    to.size += (count + 63) / 64 * 64;
    return place;
  }
  static void* copied(const Copies& c, std::size_t at) { return c.data.as<char>() + at * size_of(c.type); }
  const void* weights(const Copies& c, Bound p) const { return p.own ? copied(c, p.at) : w_ + p.at; }
  void* gradients(const Copies& c, Bound p) const { return p.own ? copied(c, p.at) : g_ + p.at; }

  void dense(Unit& u, bool last);
  void convolution(Unit& u, const Conv2d& l);
  void norm(Unit& u, const BatchNorm& l, std::size_t channel);
  void windows(Unit& u, Window window);
  void pass(Unit& u);

  Memory& make(std::size_t bytes) { return memory_.emplace_back(Memory::device(bytes)); }
  void* rows(std::size_t row, Type type) { return make(row * batch_ * size_of(type)).data(); }
  void beside(std::function<void()> step) {  // on the side stream, once what came before is done
    backward_.push_back([this, step = std::move(step)] {
      DSGD_CHECK(cudaEventRecord(forked_, stream_));
      DSGD_CHECK(cudaStreamWaitEvent(library_->side, forked_, 0));
      step();
    });
  }
  // All of a unit's gradients of parameters have been asked for.
  using Ends = std::array<std::size_t, 2>;  // in the pieces of gradients_ and float_gradients_
  void parameters_done(const Unit& u) {
    const Ends ends{gradients_.pieces.size(), float_gradients_.pieces.size()};
    backward_.push_back([this, first = u.p.first, ends] { complete(first, ends); });
  }
  void complete(std::size_t first, const Ends& ends);
  void run_backward(std::size_t grain);
  // Steps of a unit on its way back: to the gradient of the data, that somebody wants only before the first
  // parameters if it is the network's input.
  Steps& back(bool data = false);
  static void run(const Steps& steps) {
    for (const auto& step : steps) step();
  }

  bool usable(ConstVec v) const;
  void bind(ConstVec w);
  void bind(Vec g);
  void deliver(Vec g);
  PendingLoss step(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                   const Augmentation& how, Vec g, const OnReady& ready, const Descent* descent);
  void post(std::span<const std::uint32_t> ids, int n, const Augmentation& how,
            const Descent* descent = nullptr);
  void gather(const Resident& set);
  void judge(void* dlogits);
  cudaGraphExec_t captured(const std::function<void()>& enqueue) const;
  void take_moments(const Moments* given);
  void fetch_moments();
  Loss wait(std::uint64_t ticket) override;

  const std::shared_ptr<const Library> library_;
  const cudaStream_t stream_;
  const Precision precision_;
  const Type type_;
  const Shape input_;
  const std::size_t parameters_;
  const std::unique_ptr<Kernels> kernels_, side_kernels_;
  std::vector<Unit> units_;
  std::vector<std::unique_ptr<Convolution>> convolutions_;
  std::vector<std::unique_ptr<Product>> products_;
  Copies weights_, logit_weights_, gradients_, float_gradients_;
  std::vector<Memory> memory_;
  Steps forward_, backward_, input_gradient_;
  std::size_t current_ = 0, first_ = 0;  // the unit on its way back; the first with parameters
  std::vector<std::string> implementations_;
  int copies_ = 0;
  bool given_ = false;
  Event forked_, joined_;

  // A gradient's end that is complete: from `first` on, where the GPU has come to the event.
  struct Mark {
    std::size_t first;
    cudaEvent_t event;
  };
  std::size_t grain_ = 0, complete_ = 0;  // elements between two marks, 0: none; where the last one is
  Ends unpacked_{};
  std::vector<Mark> marks_;
  std::deque<Event> events_;  // as many as there ever were marks

  const float* w_ = nullptr;
  float* g_ = nullptr;
  Vector own_w_, own_g_;
  void* x_at_ = nullptr;
  float* logits_at_ = nullptr;
  void *dlogits_at_ = nullptr, *dx_at_ = nullptr;
  float* floats_ = nullptr;  // rows on their way from or to the host
  std::uint8_t* labels_at_ = nullptr;
  double *moments_at_ = nullptr, *sums_at_ = nullptr;
  double* parts_[2] = {};
  void* workspace_[2] = {};
  void* loss_parts_ = nullptr;
  std::vector<float> logits_;
  Memory moments_host_;

  // Steps on their way to the GPU, and what they give.
  static constexpr std::size_t ahead = 32;
  static constexpr std::uint64_t slots = 8192;
  Step* step_ = nullptr;
  Memory posted_;  // `ahead` of them, pinned
  std::array<Event, ahead> copied_;
  Memory outcomes_, done_;
  std::uint64_t posts_ = 0;

  // w, g, set, grain; what is updated by which rule, and its state
  using Key = std::tuple<const float*, const float*, std::uint64_t, std::size_t, const float*,
                         OptimizerSettings::Rule, const float*>;
  struct Graph {
    cudaGraphExec_t ready = nullptr;  // null: seen once
    std::vector<Mark> marks{};
  };
  std::map<Key, Graph> graphs_;
  void forget_graphs();
};

std::vector<CudnnPlan::Unit> CudnnPlan::units(const Network& net) const {
  const auto layers = place(net);
  std::vector<bool> begins(layers.size() + 1);  // whether a layer's input goes elsewhere, too
  for (std::size_t k = 0; k < layers.size(); ++k)
    if (const auto* l = std::get_if<Shortcut>(&layers[k].spec)) begins[k - l->back] = true;
  std::vector<Unit> all;
  std::vector<int> unit_of(layers.size());
  for (std::size_t k = 0; k < layers.size(); ++k) {
    unit_of[k] = int(all.size());
    Unit u{.p = layers[k], .in = image(layers[k].in), .out = image(layers[k].out)};
    const auto next = [&](std::size_t further = 1) -> const LayerSpec* {
      const std::size_t at = k + further;
      return at < layers.size() && !begins[at] && (further == 1 || !begins[at - 1]) ? &layers[at].spec
                                                                                    : nullptr;
    };
    const auto join = [&](std::size_t count) { u.out = image(layers[k += count].out); };
    const auto shortcut = [&](std::size_t at) {
      const auto& l = std::get<Shortcut>(layers[at].spec);
      u.earlier = unit_of[at - l.back];
      u.stride = shortcut_stride(layers[at - l.back].in, layers[at].out);
    };
    const auto pool = [&](std::size_t further) {
      const auto* l = next(further) ? std::get_if<MaxPool>(next(further)) : nullptr;
      if (!l) return false;
      u.pool = Window{l->size, l->stride, true};
      u.pooled = u.out;
      join(further);
      return true;
    };
    if (const auto a = activation(&u.p.spec)) u.act = *a;
    if (std::get_if<Shortcut>(&u.p.spec)) shortcut(k);
    // ReLU and max-pool commute, gradients included: a window without positive values passes nothing on
    // either way.
    if (std::get_if<Conv2d>(&u.p.spec)) {
      if (activation(next()) == Act::relu && pool(2))
        u.act = Act::relu;
      else
        pool(1);
    }
    if (std::get_if<BatchNorm>(&u.p.spec) && next() && std::get_if<Shortcut>(next())) {
      shortcut(k + 1);
      join(1);
    }
    if (const auto a = u.act == Act::none ? activation(next()) : std::nullopt) {
      u.act = *a;
      join(1);
    }
    all.push_back(u);
  }
  return all;
}

CudnnPlan::Steps& CudnnPlan::back(bool data) {
  return data ? (current_ > first_ ? backward_ : input_gradient_)
              : (current_ >= first_ ? backward_ : input_gradient_);
}

CudnnPlan::CudnnPlan(const Network& net, int batch, Precision precision,
                     std::shared_ptr<const Library> library)
    : Plan(net, batch),
      library_(std::move(library)),
      stream_(library_->space.stream()),
      precision_(precision),
      type_(precision == Precision::bf16 ? Type::bf16 : Type::f32),
      input_(net.input),
      parameters_(parameters(net)),
      kernels_(make_kernels(stream_, type_, batch)),
      side_kernels_(make_kernels(library_->side, type_, batch)),
      units_(units(net)),
      weights_{type_, make_kernels(stream_, type_, batch)},
      logit_weights_{Type::f32, make_kernels(stream_, Type::f32, batch)},
      gradients_{type_, make_kernels(library_->side, type_, batch)},
      float_gradients_{Type::f32, make_kernels(library_->side, Type::f32, batch)} {
  const auto has_parameters = [](const Unit& u) { return u.p.weights > 0; };
  first_ = std::size_t(std::find_if(units_.begin(), units_.end(), has_parameters) - units_.begin());
  const std::size_t channels = normalised_channels(net), row = net.input.size();

  step_ = static_cast<Step*>(make(Step::size(batch)).data());
  posted_ = Memory::pinned(ahead * Step::size(batch));
  outcomes_ = Memory::pinned(slots * sizeof(Scored));
  done_ = Memory::pinned(sizeof(std::uint64_t));
  labels_at_ = static_cast<std::uint8_t*>(make(std::size_t(batch)).data());
  floats_ = static_cast<float*>(rows(std::max(row, std::size_t(classes_)), Type::f32));
  moments_at_ = static_cast<double*>(make(2 * channels * sizeof(double)).data());
  moments_host_ = Memory::pinned(2 * channels * sizeof(double));
  logits_.resize(std::size_t(batch) * classes_);
  loss_parts_ = make(kernels_->loss_size()).data();
  DSGD_CHECK(cudaMemsetAsync(loss_parts_, 0, kernels_->loss_size(), stream_));
  int most_channels = 1;
  for (const Unit& u : units_) most_channels = std::max({most_channels, u.in.channels, u.p.out.channels});
  for (double*& parts : parts_)
    parts = static_cast<double*>(make(kernels_->parts_size(most_channels) * sizeof(double)).data());
  sums_at_ = static_cast<double*>(make(2 * std::size_t(most_channels) * sizeof(double)).data());

  x_at_ = rows(row, type_);
  dx_at_ = rows(row, type_);
  for (std::size_t k = 0; k < units_.size(); ++k) {
    Unit& u = units_[k];
    u.x = k == 0 ? x_at_ : units_[k - 1].y;
    u.dx = k == 0 ? dx_at_ : units_[k - 1].dy;
    if (std::max({u.in.size(), u.out.size(), u.pooled.size()}) * std::size_t(batch) >> 32)
      throw std::invalid_argument(
          fmt::format("{}: {} samples are too many for a GPU's {}: use a smaller minibatch", net.name, batch,
                      to_string(u.p.spec)));
    u.y = rows(u.out.size(), type_);
    u.dy = rows(u.out.size(), type_);
  }
  dlogits_at_ = units_.back().dy;
  const bool dense_last = std::get_if<Dense>(&units_.back().p.spec) && units_.back().act == Act::none;
  logits_at_ = static_cast<float*>(dense_last && type_ == Type::f32 ? units_.back().y
                                                                    : rows(std::size_t(classes_), Type::f32));

  // Forward; the steps of the way back are kept until all units are there.
  forward_.push_back([this] {
    for (const Copies* c : {&weights_, &logit_weights_})
      c->kernels->pack(c->table.as<Piece>(), int(c->pieces.size()), w_, c->data.data());
  });
  std::vector<Steps> forward(units_.size());
  std::size_t channel = channels;
  for (current_ = units_.size(); current_-- > 0;) {  // from the last layer to the first
    Unit& u = units_[current_];
    implementations_.push_back(to_string(u.p.spec));
    std::swap(forward_, forward[current_]);  // collects this unit's
    if (u.act != Act::none)
      back().push_back([this, &u] { kernels_->act_back(u.act, u.out.size(), u.y, u.dy); });
    std::visit(Overloaded{[&](const Dense&) { dense(u, dense_last && current_ + 1 == units_.size()); },
                          [&](const Conv2d& l) { convolution(u, l); },
                          [&](const BatchNorm& l) { norm(u, l, channel -= std::size_t(u.in.channels)); },
                          [&](const MaxPool& l) {
                            windows(u, {l.size, l.stride, true});
                          },
                          [&](const AvgPool& l) {
                            windows(u, {l.size, l.stride, false});
                          },
                          [&](const Shortcut&) {
                            forward_.push_back([this, &u] {
                              const Unit& e = units_[std::size_t(u.earlier)];
                              kernels_->shortcut(u.out, e.in, u.stride, u.x, e.x, u.act, u.y);
                            });
                            pass(u);
                          },
                          [&](const auto&) {
                            forward_.push_back([this, &u] {
                              kernels_->pool(u.in, u.in, {1, 1, true}, nullptr, u.act, u.x, u.y);
                            });
                            pass(u);
                          }},
               u.p.spec);
    for (Unit& s : units_)  // what shortcuts bring to the gradient of this unit's input
      if (s.earlier == int(current_))
        back(true).push_back([this, &u, &s] { kernels_->shortcut_back(s.out, u.in, s.stride, s.dy, u.dx); });
    std::swap(forward_, forward[current_]);
  }
  std::reverse(implementations_.begin(), implementations_.end());
  for (Steps& steps : forward) std::move(steps.begin(), steps.end(), std::back_inserter(forward_));
  if (!dense_last)
    forward_.push_back(
        [this] { kernels_->give(units_.back().y, std::size_t(batch_) * classes_, logits_at_); });

  for (Copies* c : {&weights_, &logit_weights_, &gradients_, &float_gradients_}) {
    c->data = Memory::device(c->size * size_of(c->type));
    c->table = Memory::device(c->pieces.size() * sizeof(Piece));
    if (!c->pieces.empty())
      DSGD_CHECK(cudaMemcpyAsync(c->table.data(), c->pieces.data(), c->table.bytes(), cudaMemcpyHostToDevice,
                                 stream_));
    copies_ += int(c->pieces.size());
  }
  for (int side : {0, 1}) {
    std::size_t most = Products::workspace;
    for (const auto& c : convolutions_) most = std::max(most, c->workspace(side));
    workspace_[side] = make(most).data();
  }
  library_->space.wait();
}

CudnnPlan::~CudnnPlan() { forget_graphs(); }

void CudnnPlan::forget_graphs() {
  cudaStreamSynchronize(stream_);  // one may be at work
  for (const auto& [key, graph] : graphs_)
    if (graph.ready) cudaGraphExecDestroy(graph.ready);
  graphs_.clear();
}

// The gradient goes through as it is.
void CudnnPlan::pass(Unit& u) {
  back(true).push_back([this, &u] {
    DSGD_CHECK(cudaMemcpyAsync(u.dx, u.dy, u.out.size() * batch_ * size_of(type_), cudaMemcpyDeviceToDevice,
                               stream_));
  });
}

// Column-major, as cuBLASLt has it, rows of a minibatch are columns: Y = W^T X, dX = W dY, dW = X dY^T.
void CudnnPlan::dense(Unit& u, bool last) {
  using Extra = Products::Extra;
  const int inputs = int(u.in.size()), units = u.out.channels;
  const bool tf32 = precision_ == Precision::tf32;
  const Type result = last ? Type::f32 : type_;
  const std::size_t bias_at = u.p.first + u.p.weights;
  void* const y = last ? logits_at_ : u.y;
  Copies& with_bias = last ? logit_weights_ : weights_;  // a bias has the type of the result
  const Bound w = bind(weights_, u.p.first, u.p.weights), b = bind(with_bias, bias_at, u.p.bias),
              dw = bind(float_gradients_, u.p.first, u.p.weights),
              db = bind(float_gradients_, bias_at, u.p.bias);

  const auto prepare = [&](Product::Shape shape) -> const Product* {
    const auto& made = products_.emplace_back(std::make_unique<Product>(library_->products, shape));
    return made->possible() ? made.get() : nullptr;
  };
  Product::Shape shape{units, batch_, inputs, true, false, type_, result, tf32};
  shape.extra = u.act == Act::relu ? Extra::relu_bias : Extra::bias;
  const Product* fused = prepare(shape);
  shape.extra = Extra::none;
  const Product* const forward = fused ? fused : prepare(shape);
  const bool biased = fused;
  forward_.push_back([=, this, &with_bias, &u] {
    forward->run(weights(weights_, w), u.x, y, const_cast<void*>(weights(with_bias, b)), workspace_[0],
                 stream_);
  });
  const Act rest = biased && u.act == Act::relu ? Act::none : u.act;
  if (!biased || rest != Act::none)
    forward_.push_back([=, this] {
      const Kernels& k = last ? *logit_weights_.kernels : *kernels_;
      k.bias({units, 1, 1}, biased ? nullptr : w_ + bias_at, rest, y);
    });

  shape = {inputs, units, batch_, false, true, type_, Type::f32, tf32, Extra::bias_gradient};
  fused = prepare(shape);
  shape.extra = Extra::none;
  const Product* const parameters = fused ? fused : prepare(shape);
  const bool summed = fused;
  beside([=, this, &u] {
    auto* const to = static_cast<float*>(gradients(float_gradients_, db));
    parameters->run(u.x, u.dy, gradients(float_gradients_, dw), to, workspace_[1], library_->side);
    if (!summed) side_kernels_->bias_back({units, 1, 1}, u.dy, parts_[1], to);
  });
  parameters_done(u);
  const Product* const data = prepare({inputs, batch_, units, false, false, type_, type_, tf32});
  back(true).push_back(
      [=, this, &u] { data->run(weights(weights_, w), u.dy, u.dx, nullptr, workspace_[0], stream_); });
  implementations_.back() += fmt::format(": cuBLASLt{}{}", biased ? ", bias and ReLU in it" : "",
                                         summed ? ", gradient of the bias in it" : "");
}

void CudnnPlan::convolution(Unit& u, const Conv2d& l) {
  const auto& conv =
      convolutions_.emplace_back(std::make_unique<Convolution>(*library_, u.p, l, batch_, precision_));
  const Convolution* const c = conv.get();
  Copies& copies = type_ == Type::f32 ? float_gradients_ : gradients_;
  const Bound w = bind(weights_, u.p.first, u.p.weights), dw = bind(copies, u.p.first, u.p.weights);
  const std::size_t bias_at = u.p.first + u.p.weights;
  void *z = u.y, *dz = u.dy;  // the convolution's own output and its gradient
  if (u.pool) {
    z = rows(u.pooled.size(), type_);
    dz = rows(u.pooled.size(), type_);
  }
  const bool biased = l.bias;
  forward_.push_back([=, this, &u] {
    c->forward(u.x, weights(weights_, w), z, workspace_[0]);
    const float* const bias = biased ? w_ + bias_at : nullptr;
    if (u.pool)
      kernels_->pool(u.pooled, u.out, *u.pool, bias, u.act, z, u.y);
    else if (bias || u.act != Act::none)
      kernels_->bias(u.out, bias, u.act, z);
  });
  if (u.pool) back().push_back([=, this, &u] { kernels_->pool_back(u.pooled, u.out, *u.pool, z, u.dy, dz); });
  const Image whole = u.pool ? u.pooled : u.out;
  beside([=, this, &u, &copies] {
    if (biased) side_kernels_->bias_back(whole, dz, parts_[1], g_ + bias_at);
    c->weights(u.x, dz, gradients(copies, dw), workspace_[1]);
  });
  parameters_done(u);
  back(true).push_back([=, this, &u] { c->data(weights(weights_, w), dz, u.dx, workspace_[0]); });
  implementations_.back() += (u.pool ? " + pool: " : ": ") + c->algorithms();
}

void CudnnPlan::norm(Unit& u, const BatchNorm& l, std::size_t channel) {
  double* const moments = moments_at_ + 2 * channel;
  const std::size_t first = u.p.first, shift = first + u.p.weights;
  const double epsilon = l.epsilon;
  forward_.push_back([=, this, &u] {
    if (!given_) kernels_->moments(step_, u.in, u.x, parts_[0], moments);
    const Unit& e = units_[std::size_t(std::max(u.earlier, 0))];
    kernels_->norm(u.in, epsilon, moments, w_ + first, w_ + shift, u.x, u.earlier < 0 ? nullptr : e.x, e.in,
                   u.stride, u.act, u.y);
  });
  back().push_back([=, this, &u] {
    kernels_->norm_sums(step_, u.in, epsilon, moments, u.x, u.dy, parts_[0], sums_at_, g_ + first,
                        g_ + shift);
  });
  parameters_done(u);
  back(true).push_back([=, this, &u] {
    kernels_->norm_back(step_, u.in, epsilon, moments, w_ + first, sums_at_, u.x, u.dy, u.dx);
  });
}

void CudnnPlan::windows(Unit& u, Window window) {
  forward_.push_back([=, this, &u] { kernels_->pool(u.in, u.out, window, nullptr, u.act, u.x, u.y); });
  back(true).push_back([=, this, &u] { kernels_->pool_back(u.in, u.out, window, u.x, u.dy, u.dx); });
}

// On the side stream: copies of gradients go to where they are wanted, and a mark says that all is there.
void CudnnPlan::complete(std::size_t first, const Ends& ends) {
  if (first > 0 && (grain_ == 0 || complete_ - first < grain_)) return;
  DSGD_CHECK(cudaEventRecord(forked_, stream_));
  DSGD_CHECK(cudaStreamWaitEvent(library_->side, forked_, 0));
  const Copies* const copies[] = {&gradients_, &float_gradients_};
  for (std::size_t k = 0; k < ends.size(); ++k)
    copies[k]->kernels->unpack(copies[k]->table.as<Piece>() + unpacked_[k], int(ends[k] - unpacked_[k]),
                               copies[k]->data.data(), g_);
  unpacked_ = ends;
  complete_ = first;
  if (first > 0) {
    if (events_.size() == marks_.size()) events_.emplace_back();
    marks_.push_back({first, events_[marks_.size()]});
    // Of a graph: recorded by each of its launches. The flag is refused outside of a capture.
    cudaStreamCaptureStatus capture{};
    DSGD_CHECK(cudaStreamIsCapturing(library_->side, &capture));
    DSGD_CHECK(cudaEventRecordWithFlags(
        marks_.back().event, library_->side,
        capture == cudaStreamCaptureStatusActive ? cudaEventRecordExternal : cudaEventRecordDefault));
    return;
  }
  DSGD_CHECK(cudaEventRecord(joined_, library_->side));
  DSGD_CHECK(cudaStreamWaitEvent(stream_, joined_, 0));
}

void CudnnPlan::run_backward(std::size_t grain) {
  grain_ = grain;
  complete_ = parameters_;
  unpacked_ = {};
  marks_.clear();
  run(backward_);
}

bool CudnnPlan::usable(ConstVec v) const {
  return v.space == &library_->space && reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0;
}

void CudnnPlan::bind(ConstVec w) {
  if (!usable(w)) {
    if (own_w_.size() == 0) own_w_ = Vector(library_->space, w.size);
    copy(w, own_w_);
    w = own_w_;
  }
  w_ = w.data;
}

void CudnnPlan::bind(Vec g) {
  if (!usable(g)) {
    if (own_g_.size() == 0) own_g_ = Vector(library_->space, g.size);
    g = own_g_;
  }
  g_ = g.data;
}

void CudnnPlan::deliver(Vec g) {
  if (!usable(g)) copy(own_g_, g);
}

void CudnnPlan::post(std::span<const std::uint32_t> ids, int n, const Augmentation& how,
                     const Descent* descent) {
  const std::size_t at = posts_ % ahead;
  DSGD_CHECK(cudaEventSynchronize(copied_[at]));  // who lay there before is on the GPU
  auto* const step = reinterpret_cast<Step*>(posted_.as<std::byte>() + at * Step::size(batch_));
  const std::uint64_t ticket = ++posts_;
  step->n = n;
  step->slot = std::uint32_t(ticket % slots);
  step->ticket = ticket;
  if (descent) {
    step->update = descent->update;
    step->adam = descent->adam;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const Crop crop = how.crop_flip ? draw_crop(how, ids[i]) : Crop{};
    step->picks[i] = {ids[i], std::int8_t(crop.down), std::int8_t(crop.right), crop.flip};
  }
  DSGD_CHECK(cudaMemcpyAsync(step_, step, Step::size(batch_), cudaMemcpyHostToDevice, stream_));
  DSGD_CHECK(cudaEventRecord(copied_[at], stream_));
}

void CudnnPlan::gather(const Resident& set) {
  kernels_->gather(step_, set.pixels.as<std::uint8_t>(), set.labels.as<std::uint8_t>(),
                   set.affine.as<Samples::Affine>(), image(input_), x_at_, labels_at_);
}

void CudnnPlan::judge(void* dlogits) {
  kernels_->loss(step_, logits_at_, labels_at_, classes_, dlogits, loss_parts_, outcomes_.as<Scored>(),
                 done_.as<std::uint64_t>());
}

void CudnnPlan::take_moments(const Moments* given) {
  given_ = given;
  if (!given) return;
  moments_ = *given;
  library_->space.wait();  // the last ones are on the GPU
  auto* const to = moments_host_.as<double>();
  for (std::size_t c = 0; c < moments_.mean.size(); ++c) {
    to[2 * c] = moments_.mean[c];
    to[2 * c + 1] = moments_.variance[c];
  }
  if (!moments_.mean.empty())
    DSGD_CHECK(cudaMemcpyAsync(moments_at_, to, moments_host_.bytes(), cudaMemcpyHostToDevice, stream_));
}

void CudnnPlan::fetch_moments() {
  if (given_ || moments_.mean.empty()) return;
  const auto* const from = moments_host_.as<double>();
  DSGD_CHECK(cudaMemcpyAsync(moments_host_.data(), moments_at_, moments_host_.bytes(), cudaMemcpyDeviceToHost,
                             stream_));
  library_->space.wait();
  for (std::size_t c = 0; c < moments_.mean.size(); ++c) {
    moments_.mean[c] = from[2 * c];
    moments_.variance[c] = from[2 * c + 1];
  }
}

const float* CudnnPlan::forward(ConstVec w, const float* x, int n, const Moments* given) {
  bind(w);
  take_moments(given);
  post({}, n, {});
  library_->space.from_host(x, floats_, std::size_t(n) * input_.size());
  kernels_->take(step_, floats_, input_.size(), x_at_);
  run(forward_);
  library_->space.to_host(logits_at_, logits_.data(), std::size_t(n) * classes_);
  fetch_moments();
  return logits_.data();
}

void CudnnPlan::backward(ConstVec w, const float* dlogits, int n, Vec g, float* dx) {
  bind(w);
  bind(g);
  library_->space.from_host(dlogits, floats_, std::size_t(n) * classes_);
  kernels_->take(step_, floats_, std::size_t(classes_), dlogits_at_);
  run_backward(0);
  if (dx) {
    run(input_gradient_);
    kernels_->give(dx_at_, std::size_t(n) * input_.size(), floats_);
    library_->space.to_host(floats_, dx, std::size_t(n) * input_.size());
  }
  deliver(g);
}

PendingLoss CudnnPlan::step(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                            const Augmentation& how, Vec g, const OnReady& ready, const Descent* descent) {
  constexpr std::size_t most_graphs = 1024;
  const auto set = Resident::of(from, library_->space);
  const std::size_t grain = usable(g) ? ready.grain : 0;
  bind(w);
  bind(g);
  given_ = false;
  post(ids, int(ids.size()), how, descent);
  const auto enqueue = [&] {
    gather(*set);
    run(forward_);
    judge(dlogits_at_);
    run_backward(grain);
    if (descent) kernels_->descend(step_, *descent, g_);
  };
  if (graphs_.size() >= most_graphs) forget_graphs();
  const Descent& of = descent ? *descent : Descent{};
  const auto [at, fresh] = graphs_.try_emplace(Key{w_, g_, set->number, grain, of.w.data, of.rule, of.state});
  Graph& graph = at->second;
  if (fresh) {
    enqueue();  // libraries load what they need, which they may not do under capture
    graph.marks = marks_;
  } else {
    if (!graph.ready) graph.ready = captured(enqueue);
    DSGD_CHECK(cudaGraphLaunch(graph.ready, stream_));
  }
  for (const Mark& mark : graph.marks) ready.call(mark.first, mark.event);
  deliver(g);
  return {*this, posts_};
}

cudaGraphExec_t CudnnPlan::captured(const std::function<void()>& enqueue) const {
  cudaGraph_t graph = nullptr;
  DSGD_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
  try {
    enqueue();
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);
    if (graph) cudaGraphDestroy(graph);
    throw;
  }
  DSGD_CHECK(cudaStreamEndCapture(stream_, &graph));
  cudaGraphExec_t ready = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate", __FILE__, __LINE__);
  return ready;
}

Loss CudnnPlan::score(ConstVec w, const Samples& from, std::span<const std::uint32_t> ids,
                      const Moments* given) {
  const auto set = Resident::of(from, library_->space);
  bind(w);
  take_moments(given);
  post(ids, int(ids.size()), {});
  gather(*set);
  run(forward_);
  judge(nullptr);
  const Loss loss = wait(posts_);
  fetch_moments();
  return loss;
}

Loss CudnnPlan::wait(std::uint64_t ticket) {
  if (posts_ - ticket >= slots)
    throw std::logic_error(fmt::format("a loss was asked for {} steps late", posts_ - ticket));
  std::atomic_ref<std::uint64_t> done(*done_.as<std::uint64_t>());
  for (int looks = 1; done.load(std::memory_order_acquire) < ticket; ++looks) {
    if (looks % 1024) continue;
    const cudaError_t status = cudaStreamQuery(stream_);  // it may have failed
    if (status != cudaErrorNotReady && done.load(std::memory_order_acquire) < ticket)
      check(status == cudaSuccess ? cudaErrorUnknown : status, "wait for a loss", __FILE__, __LINE__);
    std::this_thread::yield();
  }
  const Scored& found = outcomes_.as<Scored>()[ticket % slots];
  return {found.loss, found.correct};
}

class CudnnDevice final : public Device {
 public:
  explicit CudnnDevice(Precision precision) : precision_(precision) {}
  const Space& space() const override { return library_->space; }
  std::unique_ptr<Plan> plan(const Network& net, int batch) override {
    return std::make_unique<CudnnPlan>(net, batch, precision_, library_);
  }
  std::string library() const override {
    int driver = 0, runtime = 0, device = 0;
    cudaDeviceProp card{};
    DSGD_CHECK(cudaDriverGetVersion(&driver));
    DSGD_CHECK(cudaRuntimeGetVersion(&runtime));
    DSGD_CHECK(cudaGetDevice(&device));
    DSGD_CHECK(cudaGetDeviceProperties(&card, device));
    const std::size_t dnn = cudnnGetVersion();
    return fmt::format("cuDNN {}.{}.{}, {}, CUDA {}.{}, driver for {}.{}, {}", dnn / 10000, dnn / 100 % 100,
                       dnn % 100, library_->products.version(), runtime / 1000, runtime % 1000 / 10,
                       driver / 1000, driver % 1000 / 10, card.name);
  }

 private:
  Precision precision_;
  std::shared_ptr<const Library> library_ = Library::of_this_process();
};

}  // namespace
}  // namespace cuda

std::string cudnn_unavailable(Precision) { return cuda::unavailable(); }
std::unique_ptr<Device> make_cudnn(Precision p) { return std::make_unique<cuda::CudnnDevice>(p); }

}  // namespace dsgd
