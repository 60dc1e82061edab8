// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <stdexcept>

#include "network.h"

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

// He et al. 2015, section 4.2, n = 3. A convolution that batch norm follows has no use for a bias.
Network resnet20(const Shape& input, int classes) {
  if (input.height != input.width)
    throw std::invalid_argument(
        fmt::format("resnet20 does not fit: its input must be square images, not {}", to_string(input)));
  Network net{"resnet20", input, {Conv2d{16, 3, 1, 1, false}, BatchNorm{}, Relu{}}};
  for (const int filters : {16, 32, 64}) {
    for (int block = 0; block < 3; ++block) {
      const int stride = block == 0 && filters > 16 ? 2 : 1;
      for (const LayerSpec& layer : std::initializer_list<LayerSpec>{
               Conv2d{filters, 3, stride, 1, false}, BatchNorm{}, Relu{}, Conv2d{filters, 3, 1, 1, false},
               BatchNorm{}, Shortcut{5}, Relu{}})
        net.layers.push_back(layer);
    }
  }
  const int size = place(net).back().out.height;
  net.layers.insert(net.layers.end(), {AvgPool{size, size}, Dense{classes}});
  return checked(net);
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
       cifar_quick,
       false,
       {3, 32, 32}},
      {"resnet20",
       "He's for CIFAR-10: conv 3x3x16, 9 blocks of two conv 3x3 with shortcuts; batch norm, ReLU",
       resnet20,
       true,
       {3, 32, 32}},
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
