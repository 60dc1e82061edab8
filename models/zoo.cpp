#include "models/network.h"

namespace dsgd {
namespace {

Network checked(Network net) {
  place(net);  // throws when the shapes do not fit
  return net;
}

Network softmax(const Shape& input, int classes) { return checked({"softmax", input, {Dense{classes}}}); }

Network mlp(const Shape& input, int classes) {
  return checked({"mlp", input, {Dense{1024}, Relu{}, Dense{1024}, Relu{}, Dense{classes}}});
}

Network dnn(const Shape& input, int classes) {
  return checked(
      {"dnn", input, {Dense{500}, Sigmoid{}, Dense{500}, Sigmoid{}, Dense{2000}, Sigmoid{}, Dense{classes}}});
}

Network lenet(const Shape& input, int classes) {
  return checked({"lenet",
                  input,
                  {Conv2d{20, 5}, Relu{}, MaxPool{2, 2}, Conv2d{50, 5, 2}, Relu{}, MaxPool{2, 2}, Dense{200},
                   Relu{}, Dense{classes}}});
}

Network cifar_quick(const Shape& input, int classes) {
  const MaxPool max{3, 2, true};
  const AvgPool mean{3, 2, true};
  return checked({"cifar_quick",
                  input,
                  {Conv2d{32, 5, 1, 2}, max, Relu{}, Conv2d{32, 5, 1, 2}, Relu{}, mean, Conv2d{64, 5, 1, 2},
                   Relu{}, mean, Dense{64}, Dense{classes}}});
}

}  // namespace

const std::vector<ModelEntry>& all_models() {
  static const std::vector<ModelEntry> models{
      {"softmax", "softmax regression, one dense layer", softmax},
      {"mlp", "dense 1024, 1024; ReLU", mlp},
      {"dnn", "dense 500, 500, 2000; sigmoid", dnn},
      {"lenet",
       "Deeplearning4j's LeNet: conv 5x5x20, max-pool 2, conv 5x5x50 stride 2, max-pool 2, dense 200; ReLU",
       lenet},
      {"cifar_quick",
       "Caffe's: conv 5x5x32, max-pool, conv 5x5x32, avg-pool, conv 5x5x64, avg-pool, dense 64; ReLU",
       cifar_quick},
  };
  return models;
}

const ModelEntry* find_model(const std::string& name) {
  for (const auto& m : all_models()) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

}  // namespace dsgd
