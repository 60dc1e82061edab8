// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "cifar.h"
#include "dataset.h"
#include "fetch.h"
#include "idx.h"
#include "sums.h"

namespace dsgd {
namespace {

namespace fs = std::filesystem;
using Bytes = std::string;

// What a call throws, as text; empty when it throws nothing.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

// Without the user's own sets.
class Data : public testing::Test {
 protected:
  Data() {
    char name[] = "/tmp/dsgd-datasets-XXXXXX";
    folder_ = mkdtemp(name);
    setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
    unsetenv("DSGD_DATA");
  }
  ~Data() override { fs::remove_all(folder_); }

  fs::path write(const fs::path& name, const Bytes& content) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  fs::path folder_;
};

Bytes word(std::uint32_t n) { return {char(n >> 24), char(n >> 16), char(n >> 8), char(n)}; }
Bytes images(std::uint32_t count, std::uint32_t rows, std::uint32_t columns, const Bytes& pixels) {
  return word(0x803) + word(count) + word(rows) + word(columns) + pixels;
}
Bytes labels(std::uint32_t count, const Bytes& values) { return word(0x801) + word(count) + values; }

Bytes gzip(const Bytes& content) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(deflateBound(&z, uLong(content.size())), 0);
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  z.avail_in = uInt(content.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = uInt(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

// Two images of 2x3, labels 1 and 0.
const Bytes pixels("\x00\x01\x02\x7f\x80\xff\x06\x05\x04\x03\x02\x01", 12);
const Bytes good_images = images(2, 2, 3, pixels), good_labels = labels(2, Bytes("\1\0", 2));

TEST(Shape, TextGoesBothWays) {
  EXPECT_EQ(to_string(Shape{1, 28, 28}), "1x28x28");
  for (const Shape& s : {Shape{1, 28, 28}, Shape{784}, Shape{3, 32, 16}})
    EXPECT_EQ(parse_shape(to_string(s)), s);
  EXPECT_EQ(parse_shape("784"), (Shape{784, 1, 1}));
  for (const char* bad : {"", "x", "0", "-1", "1x28", "1x28x", "1x0x28", "1x28x28x", "1x28x28x3", "1x28x28 ",
                          " 1", "1X28X28", "99999999999", "2000000000x2000000000x2000000000", "1.5"})
    EXPECT_EQ(error_of([&] { parse_shape(bad); }),
              fmt::format("shape \"{}\": expected CHANNELSxHEIGHTxWIDTH as in 1x28x28, or one number", bad));
}

TEST(Synthetic, SamplesArePrototypesPlusBoundedNoise) {
  SyntheticSpec spec{.shape = {2, 3, 5}, .classes = 3, .train = 20, .test = 11, .noise = 0, .seed = 4};
  const Dataset plain = make_synthetic(spec);
  const std::size_t size = 30;
  for (const Samples* s : {&plain.train, &plain.test}) {
    EXPECT_EQ(s->shape, spec.shape);
    EXPECT_EQ(s->classes, 3);
    ASSERT_EQ(s->pixels.size(), s->count * size);
    ASSERT_EQ(s->labels.size(), s->count);
    for (std::size_t i = 0; i < s->count; ++i) {
      EXPECT_EQ(s->labels[i], i % 3);
      for (std::size_t j = 0; j < size; ++j)
        ASSERT_EQ(s->pixels[i * size + j], plain.train.pixels[(i % 3) * size + j]);
    }
  }
  spec.noise = 0.25;
  const Dataset noisy = make_synthetic(spec);
  int largest = 0;
  for (std::size_t i = 0; i < noisy.train.pixels.size(); ++i)
    largest = std::max(largest, std::abs(noisy.train.pixels[i] - plain.train.pixels[i]));
  EXPECT_EQ(largest, 64);  // round(255 / 4)
}

TEST(Synthetic, DependsOnTheSeedAloneOnEveryHost) {
  const SyntheticSpec spec{.shape = {2, 3, 4}, .classes = 3, .train = 7, .test = 4, .noise = 0.25, .seed = 5};
  const auto sum = [](const Samples& s) { return sha256_text({s.pixels.begin(), s.pixels.end()}); };
  const Dataset set = make_synthetic(spec);
  EXPECT_EQ(sum(set.train), "5ca37276822e1ae8d5acb0a352e2ead47722edb9a012f44c5308066123409d7a");
  EXPECT_EQ(sum(set.test), "f4d71861dc834e3f7d51c9eb93ef06ce1585100beb730ac4e9a8284720fd5cf9");

  SyntheticSpec more = spec, other = spec;
  more.train = 100;
  const Dataset longer = make_synthetic(more);
  EXPECT_TRUE(std::equal(set.train.pixels.begin(), set.train.pixels.end(), longer.train.pixels.begin()));
  EXPECT_EQ(set.test.pixels, longer.test.pixels);
  other.seed = 6;
  EXPECT_NE(sum(make_synthetic(other).train), sum(set.train));
  EXPECT_EQ(sum(load_dataset("synthetic", "", spec).train), sum(set.train));
}

TEST(Synthetic, RefusesWhatMakesNoSense) {
  for (const SyntheticSpec& bad :
       {SyntheticSpec{.shape = {0, 1, 1}}, SyntheticSpec{.classes = 0}, SyntheticSpec{.classes = 257},
        SyntheticSpec{.train = 0}, SyntheticSpec{.noise = -0.1}, SyntheticSpec{.noise = 1.1},
        SyntheticSpec{.noise = NAN}})
    EXPECT_THROW(make_synthetic(bad), std::invalid_argument);
}

class Idx : public Data {
 protected:
  // Why a pair of files is refused, without the folder; empty when it is not. Bytes are given as file
  // content.
  std::string refusal(const Bytes& image_file, const Bytes& label_file) const {
    const auto i = write("images", image_file), l = write("labels", label_file);
    std::string text = error_of([&] { read_idx(i, l, {1, 2, 3}, 2); });
    if (const auto at = text.find(folder_.string() + "/"); at == 0)
      text.erase(0, folder_.string().size() + 1);
    return text;
  }
};

TEST_F(Idx, ReadsPlainAndGzip) {
  for (const bool zipped : {false, true}) {
    const Samples s = read_idx(write("i", zipped ? gzip(good_images) : good_images),
                               write("l", zipped ? gzip(good_labels) : good_labels), {1, 2, 3}, 2);
    EXPECT_EQ(s.count, 2u);
    EXPECT_EQ(s.classes, 2);
    EXPECT_EQ(s.shape, (Shape{1, 2, 3}));
    EXPECT_EQ(Bytes(s.pixels.begin(), s.pixels.end()), pixels);
    EXPECT_EQ(s.labels, (std::vector<std::uint8_t>{1, 0}));
  }
  // A gzip file of several members is their contents side by side.
  EXPECT_EQ(refusal(gzip(good_images.substr(0, 17)) + gzip(good_images.substr(17)), good_labels), "");
}

TEST_F(Idx, ReadsFilesBeyondEveryBuffer) {
  Bytes noise(3 << 20, 0);
  std::uint32_t state = 1;
  for (char& c : noise) c = char((state = state * 1664525 + 1013904223) >> 24);
  const Bytes many = images(1 << 20, 1, 3, noise), zeros(1 << 20, 0);
  for (const Bytes& file : {many, gzip(many)}) {
    const Samples s = read_idx(write("i", file), write("l", gzip(labels(1 << 20, zeros))), {1, 1, 3}, 1);
    EXPECT_TRUE(std::equal(noise.begin(), noise.end(), s.pixels.begin(), s.pixels.end(),
                           [](char a, std::uint8_t b) { return std::uint8_t(a) == b; }));
  }
}

TEST_F(Idx, NamesFileByteAndExpectation) {
  const auto image_file = [&](const Bytes& file) { return refusal(file, good_labels); };
  const auto label_file = [&](const Bytes& file) { return refusal(good_images, file); };
  EXPECT_EQ(image_file(good_labels),
            "images: byte 0: expected the magic number 00000803 of IDX images, found 00000801");
  EXPECT_EQ(image_file("<!DOCTYPE html>"),
            "images: byte 0: expected the magic number 00000803 of IDX images, found 3c21444f");
  EXPECT_EQ(label_file(good_images),
            "labels: byte 0: expected the magic number 00000801 of IDX labels, found 00000803");
  EXPECT_EQ(image_file(""), "images: byte 0: expected an IDX header of 16 bytes, found the end of the file");
  EXPECT_EQ(image_file(good_images.substr(0, 15)),
            "images: byte 15: expected an IDX header of 16 bytes, found the end of the file");
  EXPECT_EQ(image_file(images(0, 2, 3, "")), "images: byte 4: expected at least 1 image, found 0");
  EXPECT_EQ(image_file(images(2, 3, 3, pixels)), "images: byte 8: expected 2 rows, found 3");
  EXPECT_EQ(image_file(images(2, 2, 4, pixels)), "images: byte 12: expected 3 columns, found 4");
  EXPECT_EQ(image_file(images(2, 2, 3, pixels.substr(1))),
            "images: byte 27: expected the 12 bytes of 2 images of 2x3, found the end of the file");
  EXPECT_EQ(image_file(images(0xffffffff, 2, 3, pixels)),
            "images: byte 28: expected the 25769803770 bytes of 4294967295 images of 2x3, found the end of "
            "the file");
  EXPECT_EQ(image_file(good_images + "x"),
            "images: byte 28: expected the end of the file after 2 images of 2x3, found more bytes");
  EXPECT_EQ(label_file(labels(3, Bytes(3, 0))),
            "labels: byte 4: expected 2 labels, as many as images in images, found 3");
  EXPECT_EQ(label_file(labels(2, Bytes(1, 0))),
            "labels: byte 9: expected the 2 bytes of 2 labels, found the end of the file");
  EXPECT_EQ(label_file(labels(2, Bytes(3, 0))),
            "labels: byte 10: expected the end of the file after 2 labels, found more bytes");
  EXPECT_EQ(label_file(labels(2, "\1\2")), "labels: byte 9: expected a label from 0 to 1, found 2");
  EXPECT_EQ(label_file(gzip(labels(2, "\1\2"))),
            "labels: byte 9 of the decompressed content: expected a label from 0 to 1, found 2");
  EXPECT_EQ(error_of([&] {
              read_idx(folder_ / "none", folder_, {1, 2, 3}, 2);
            }),
            (folder_ / "none").string() + ": expected a readable file: No such file or directory");
  EXPECT_EQ(error_of([&] {
              read_idx(folder_, folder_, {1, 2, 3}, 2);
            }),
            folder_.string() + ": byte 0: expected a readable file: Is a directory");
}

TEST_F(Idx, NamesGzipDamage) {
  const Bytes whole = gzip(good_images);
  const auto n = whole.size();
  Bytes bad_crc = whole, bad_length = whole, bad_block = whole;
  bad_crc[n - 8] ^= 1;
  bad_length[n - 1] ^= 1;
  bad_block[10] |= 6;  // block type 3
  EXPECT_EQ(refusal(bad_crc, good_labels),
            fmt::format("images: byte {} of the compressed file: expected intact gzip data, found damage "
                        "(incorrect data check)",
                        n - 4));
  EXPECT_EQ(refusal(bad_length, good_labels),
            fmt::format("images: byte {} of the compressed file: expected intact gzip data, found damage "
                        "(incorrect length check)",
                        n));
  EXPECT_EQ(
      refusal(bad_block, good_labels),
      "images: byte 11 of the compressed file: expected intact gzip data, found damage (invalid block type)");
  EXPECT_EQ(refusal(whole.substr(0, n - 1), good_labels),
            fmt::format(
                "images: byte {} of the compressed file: expected more gzip data, found the end of the file",
                n - 1));
  EXPECT_EQ(
      refusal(whole + "junk", good_labels),
      fmt::format("images: byte {} of the compressed file: expected the end of the file, found more bytes "
                  "after the gzip data",
                  n));
}

TEST_F(Idx, EveryCutIsNoticed) {
  for (const Bytes& whole : {good_images, gzip(good_images)})
    for (std::size_t n = 0; n < whole.size(); ++n)
      EXPECT_NE(refusal(whole.substr(0, n), good_labels), "") << n;
  for (const Bytes& whole : {good_labels, gzip(good_labels)})
    for (std::size_t n = 0; n < whole.size(); ++n)
      EXPECT_NE(refusal(good_images, whole.substr(0, n)), "") << n;
}

TEST_F(Idx, EveryFlippedBitIsNoticedOrHarmless) {
  const Bytes whole = gzip(good_images);
  const auto l = write("l", good_labels);
  int noticed = 0;
  for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    Bytes bad = whole;
    bad[bit / 8] ^= char(1 << bit % 8);
    const auto i = write("i", bad);
    noticed += !error_of([&] {
                  const Samples s = read_idx(i, l, {1, 2, 3}, 2);
                  ASSERT_EQ(Bytes(s.pixels.begin(), s.pixels.end()), pixels);  // date, system: not content
                }).empty();
  }
  EXPECT_GT(noticed, int(8 * (whole.size() - 10)));  // all after the gzip header, and some of it
}

class Cifar : public Data {
 protected:
  static Bytes record(int label, int first_pixel) {  // pixels that tell channels and rows apart
    Bytes bytes(1, char(label));
    for (int i = 0; i < 3072; ++i) bytes.push_back(char(first_pixel + i / 1024 * 50 + i % 1024 / 32));
    return bytes;
  }
  // Why a batch is refused, without the folder; empty when it is not.
  std::string refusal(const Bytes& batch) const {
    const fs::path files[] = {write("good", record(3, 0)), write("batch", batch)};
    std::string text = error_of([&] { read_cifar10(files); });
    if (text.starts_with(folder_.string() + "/")) text.erase(0, folder_.string().size() + 1);
    return text;
  }
  // Batches of 1, 2, 3, 4, 5 and 2 records; record i of a batch has label i.
  void write_set(const fs::path& at) const {
    for (int batch = 1; batch <= 6; ++batch) {
      Bytes all;
      for (int i = 0; i < (batch < 6 ? batch : 2); ++i) all += record(i, batch);
      write(at / (batch < 6 ? fmt::format("data_batch_{}.bin", batch) : "test_batch.bin"), all);
    }
  }
};

TEST_F(Cifar, ReadsBatchesPlainAndGzip) {
  const Bytes content = record(9, 7) + record(0, 8);
  for (const bool zipped : {false, true}) {
    const fs::path files[] = {write("a", record(4, 0)), write("b", zipped ? gzip(content) : content)};
    const Samples s = read_cifar10(files);
    EXPECT_EQ(s.shape, (Shape{3, 32, 32}));
    EXPECT_EQ(s.classes, 10);
    EXPECT_EQ(s.count, 3u);
    EXPECT_EQ(s.labels, (std::vector<std::uint8_t>{4, 9, 0}));
    EXPECT_EQ(Bytes(s.pixels.begin(), s.pixels.end()),
              record(4, 0).substr(1) + record(9, 7).substr(1) + record(0, 8).substr(1));
    EXPECT_TRUE(s.channels.empty());
  }
}

TEST_F(Cifar, NamesFileByteAndExpectation) {
  const Bytes two = record(1, 0) + record(2, 0);
  EXPECT_EQ(refusal(two), "");
  EXPECT_EQ(refusal(""), "batch: byte 0: expected record 0 of 3073 bytes, found the end of the file");
  EXPECT_EQ(refusal(two.substr(0, 6145)),
            "batch: byte 6145: expected record 1 of 3073 bytes, found the end of the file");
  EXPECT_EQ(refusal(two + "x"),
            "batch: byte 6147: expected record 2 of 3073 bytes, found the end of the file");
  EXPECT_EQ(refusal(two + record(10, 0)), "batch: byte 6146: expected a label from 0 to 9, found 10");
  EXPECT_EQ(refusal(gzip(record(255, 0))),
            "batch: byte 0 of the decompressed content: expected a label from 0 to 9, found 255");
  const Bytes cut = gzip(two);
  EXPECT_EQ(
      refusal(cut.substr(0, cut.size() - 1)),
      fmt::format("batch: byte {} of the compressed file: expected more gzip data, found the end of the file",
                  cut.size() - 1));
  const fs::path missing[] = {folder_ / "none"};
  EXPECT_EQ(error_of([&] { read_cifar10(missing); }),
            (folder_ / "none").string() + ": expected a readable file: No such file or directory");
}

TEST_F(Cifar, LoadsFiveBatchesAndOneToTestWith) {
  write_set("cache/dsgd/cifar10-jpeg");
  const Dataset set = load_dataset("cifar10-jpeg", "");
  EXPECT_EQ(set.name, "cifar10-jpeg");
  EXPECT_EQ(set.train.labels, (std::vector<std::uint8_t>{0, 0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4}));
  EXPECT_EQ(set.test.labels, (std::vector<std::uint8_t>{0, 1}));
  EXPECT_EQ(set.train.pixels[14 * 3072], 5);
  EXPECT_EQ(set.test.pixels[0], 6);

  fs::remove(folder_ / "cache/dsgd/cifar10-jpeg/data_batch_3.bin");
  std::string text = error_of([] { load_dataset("cifar10-jpeg", ""); });
  EXPECT_NE(text.find("data set cifar10-jpeg was not found; make it: "), Bytes::npos) << text;
  EXPECT_NE(text.find("cifar10-jpeg: 1 of 6 files missing, data_batch_3.bin first\n"), Bytes::npos) << text;
  const fs::path bad = write("cache/dsgd/cifar10-jpeg/data_batch_3.bin", "123");
  text = error_of([] { load_dataset("cifar10-jpeg", ""); });
  EXPECT_EQ(text.find(bad.string() + ": byte 3: expected record 0 of 3073 bytes, found the end of the file; "
                                     "remove the file and make it: "),
            0u)
      << text;
}

// Other images in the same files, wherever they lie, are never loaded as cifar10.
TEST_F(Cifar, OnlyThePublishedFilesAreCifar10) {
  for (const char* at : {"cache/dsgd/cifar10", "cache/dsgd/cifar10-jpeg", "given"}) write_set(at);
  const std::string text = error_of([&] { load_dataset("cifar10", folder_ / "given"); });
  EXPECT_NE(text.find("data set cifar10 was not found; get it with `dsgd data fetch cifar10`"), Bytes::npos)
      << text;
  for (const char* place : {"/given", "/cache/dsgd/cifar10"})
    EXPECT_NE(text.find(folder_.string() + place +
                        ": data_batch_1.bin is not the published one: expected content with SHA-256 "),
              Bytes::npos)
        << text;
  for (const char* ending : {"", "/"}) {
    const fs::path named = folder_ / ("cache/dsgd/cifar10-jpeg" + Bytes(ending));
    EXPECT_NE(error_of([&] { load_dataset("cifar10", named); }).find(named.string() + ": holds cifar10-jpeg"),
              Bytes::npos);
  }
  EXPECT_EQ(locate_dataset(known_dataset("cifar10-jpeg"), folder_ / "given"), folder_ / "given");
  fs::remove_all(folder_ / "given");
  EXPECT_EQ(locate_dataset(known_dataset("cifar10-jpeg"), ""), folder_ / "cache/dsgd/cifar10-jpeg");
  EXPECT_EQ(locate_dataset(known_dataset("cifar10-jpeg"), folder_ / "cache/dsgd/cifar10"),
            folder_ / "cache/dsgd/cifar10-jpeg");
}

TEST_F(Cifar, ThePublishedFilesLoadAsCifar10Alone) {
  // A stand-in for the table's line, with the sums of small files.
  write_set("set");
  DatasetEntry entry = known_dataset("cifar10");
  for (auto& file : entry.files) file.sha256 = sha256_content(folder_ / "set" / file.name);
  EXPECT_EQ(locate_dataset(entry, folder_ / "set"), folder_ / "set");
  EXPECT_EQ(entry.load(folder_ / "set").name, "cifar10");
  EXPECT_TRUE(check_dataset(entry, folder_ / "set").complete());
  write("set/data_batch_5.bin", record(0, 0));
  EXPECT_NE(error_of([&] {
              locate_dataset(entry, folder_ / "set");
            }).find("/set: data_batch_5.bin is not the published one: "),
            Bytes::npos);
  EXPECT_TRUE(check_dataset(entry, folder_ / "set").damaged());
}

TEST_F(Cifar, CheckSaysWhatCannotBeVerified) {
  write_set("cache/dsgd/cifar10-jpeg");
  const std::string f = (folder_ / "cache/dsgd/cifar10-jpeg/").string();
  std::string there = "cifar10-jpeg: complete\n";
  for (const char* name :
       {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"})
    there += fmt::format("  there    {}{}.bin (no sum is published to verify it by)\n", f, name);
  EXPECT_EQ(to_string(check_dataset("cifar10-jpeg", "")), there);
  const std::string text = to_string(check_dataset("cifar10", ""));
  EXPECT_EQ(text.find("cifar10: incomplete; get it with `dsgd data fetch cifar10`, or "), 0u) << text;
  EXPECT_NE(text.find("  missing  test_batch.bin\n  untried  "
                      "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (a public address that this "
                      "project has never tried)\n"),
            Bytes::npos)
      << text;
}

TEST(Datasets, CifarIsNormalisedUnlessARunAsksOtherwise) {
  for (const auto& entry : all_datasets())
    EXPECT_EQ(entry.normalise, entry.name.starts_with("cifar")) << entry.name;
}

class Lookup : public Data {
 protected:
  // A set of two training images and one test image in the likeness of MNIST.
  void write_set(const fs::path& at, const Bytes& test_label = Bytes(1, 7), const Bytes& ending = "") const {
    const auto put = [&](const char* name, const Bytes& content) {
      write(at / (name + ending), ending == ".gz" ? gzip(content) : content);
    };
    put("train-images-idx3-ubyte", images(2, 28, 28, Bytes(2 * 784, 3)));
    put("train-labels-idx1-ubyte", labels(2, "\4\5"));
    put("t10k-images-idx3-ubyte", images(1, 28, 28, Bytes(784, 6)));
    put("t10k-labels-idx1-ubyte", labels(1, test_label));
  }
  fs::path found(const fs::path& data_dir = "") const {
    return fs::relative(locate_dataset(known_dataset("mnist"), data_dir), folder_);
  }
};

TEST_F(Lookup, LoadsPlainAndGzip) {
  for (const char* ending : {"", ".gz"}) {
    write_set("set", Bytes(1, 7), ending);
    const Dataset set = load_dataset("mnist", folder_ / "set");
    EXPECT_EQ(set.name, "mnist");
    EXPECT_EQ(set.train.count, 2u);
    EXPECT_EQ(set.train.labels, (std::vector<std::uint8_t>{4, 5}));
    EXPECT_EQ(set.test.labels, (std::vector<std::uint8_t>{7}));
    EXPECT_EQ(set.test.pixels, std::vector<std::uint8_t>(784, 6));
    fs::remove_all(folder_ / "set");
  }
}

TEST_F(Lookup, TakesTheFirstCompleteFolder) {
  setenv("DSGD_DATA", (folder_ / "variable").c_str(), 1);
  const auto folders = dataset_folders("mnist", folder_ / "given");
  EXPECT_EQ(folders,
            (std::vector<fs::path>{folder_ / "given/mnist", folder_ / "given", folder_ / "variable/mnist",
                                   folder_ / "variable", folder_ / "cache/dsgd/mnist", folder_ / "cache/dsgd",
                                   "/usr/share/datasets/mnist", "/usr/share/datasets"}));
  // From the last to the first, each wins over those before.
  for (const char* next :
       {"cache/dsgd", "cache/dsgd/mnist", "variable", "variable/mnist", "given", "given/mnist"}) {
    write_set(next);
    EXPECT_EQ(found(folder_ / "given"), next);
  }
  fs::remove(folder_ / "given/mnist/t10k-labels-idx1-ubyte");
  EXPECT_EQ(found(folder_ / "given"), "given");
}

TEST_F(Lookup, SaysWhereItLookedAndWhatToDo) {
  write_set("given");
  fs::remove(folder_ / "given/train-labels-idx1-ubyte");
  fs::create_directories(folder_ / "cache/dsgd");
  const std::string text = error_of([&] { found(folder_ / "given"); });
  const std::string f = folder_.string();
  for (const std::string& part :
       {std::string(
            "data set mnist was not found; get it with `dsgd data fetch mnist`, or name its folder with "
            "--data-dir or $DSGD_DATA. Places tried:\n"),
        f + "/given/mnist: no such folder\n",
        f + "/given: 1 of 4 files missing, train-labels-idx1-ubyte first\n",
        f + "/cache/dsgd: none of its files\n"})
    EXPECT_NE(text.find(part), text.npos) << text << part;
  EXPECT_EQ(
      error_of([] { load_dataset("minst", ""); }),
      "data set \"minst\" is unknown (allowed: mnist, fashion-mnist, cifar10, cifar10-jpeg, synthetic)");
  EXPECT_EQ(find_dataset("minst"), nullptr);
}

TEST_F(Lookup, DamagedSetsAreNamedWithTheRemedy) {
  write_set("set", Bytes(1, 10));
  EXPECT_EQ(error_of([&] { load_dataset("mnist", folder_ / "set"); }),
            (folder_ / "set/t10k-labels-idx1-ubyte").string() +
                ": byte 8: expected a label from 0 to 9, found 10; remove the file and get it with "
                "`dsgd data fetch mnist`");
}

TEST_F(Lookup, CheckTellsRightWrongAndMissing) {
  const auto write_ = [&](const char* name, const Bytes& content) { write(fs::path("set") / name, content); };
  DatasetEntry entry = known_dataset("mnist");
  for (auto& file : entry.files) file.sha256 = sha256_text(file.name);
  write_("train-images-idx3-ubyte", "train-images-idx3-ubyte");
  write_("train-labels-idx1-ubyte.gz", gzip("train-labels-idx1-ubyte"));
  write_("t10k-images-idx3-ubyte", "something else");
  auto check = check_dataset(entry, folder_ / "set");
  using State = FileCheck::Status;
  ASSERT_EQ(check.files.size(), 4u);
  EXPECT_EQ(check.files[0].state, State::right);
  EXPECT_EQ(check.files[1].state, State::right);
  EXPECT_EQ(check.files[1].path, folder_ / "set/train-labels-idx1-ubyte.gz");
  EXPECT_EQ(check.files[2].state, State::wrong);
  EXPECT_EQ(check.files[2].problem, "expected content with SHA-256 " + entry.files[2].sha256 + ", found " +
                                        sha256_text("something else"));
  EXPECT_EQ(check.files[3].state, State::missing);
  EXPECT_FALSE(check.complete());
  EXPECT_TRUE(check.damaged());
  const std::string f = (folder_ / "set/").string();
  EXPECT_EQ(to_string(check),
            "mnist: damaged; remove the wrong files and get it with `dsgd data fetch mnist`\n  right    " +
                f + "train-images-idx3-ubyte\n  right    " + f + "train-labels-idx1-ubyte.gz\n  wrong    " +
                f + "t10k-images-idx3-ubyte: " + check.files[2].problem +
                "\n  missing  t10k-labels-idx1-ubyte\n" +
                "  untried  https://ossci-datasets.s3.amazonaws.com/mnist (a public address that "
                "this project has never tried)\n" +
                "  untried  https://storage.googleapis.com/cvdf-datasets/mnist (a public address "
                "that this project has never tried)\n");

  write_("t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte");
  check = check_dataset(entry, folder_ / "set");
  EXPECT_FALSE(check.damaged());
  EXPECT_EQ(to_string(check).find("mnist: incomplete; get it with `dsgd data fetch mnist`\n"), 0u);
  const Bytes cut = gzip("t10k-labels-idx1-ubyte");
  write_("t10k-labels-idx1-ubyte.gz", cut.substr(0, cut.size() - 3));
  EXPECT_NE(check_dataset(entry, folder_ / "set").files[3].problem.find("expected more gzip data"),
            Bytes::npos);
  write_("t10k-labels-idx1-ubyte.gz", cut);
  check = check_dataset(entry, folder_ / "set");
  EXPECT_TRUE(check.complete());
  EXPECT_EQ(to_string(check).find("mnist: complete\n"), 0u);
  EXPECT_EQ(to_string(check_dataset("synthetic", "")), "synthetic: made from a seed, needs no files\n");
}

// Debian's package; the tests' and the quickstart's real data.
TEST_F(Lookup, ContentIsPartOfTheIdentityUnlessItIsThePublishedOne) {
  const DatasetEntry& entry = *find_dataset("mnist");
  write_set("plain");
  write_set("packed", Bytes(1, 7), ".gz");
  write_set("other", Bytes(1, 8));
  const std::string sums = dataset_sums(entry, folder_ / "plain");
  EXPECT_EQ(dataset_sums(entry, folder_ / "packed"), sums);
  EXPECT_EQ(sums.substr(64, 25), "  train-images-idx3-ubyte");
  EXPECT_EQ(std::count(sums.begin(), sums.end(), '\n'), 4);
  EXPECT_EQ(content_id(entry, sums), sha256_text(sums));
  EXPECT_NE(content_id(entry, dataset_sums(entry, folder_ / "other")), content_id(entry, sums));
  EXPECT_EQ(content_id(known_dataset("cifar10-jpeg"), "any"), sha256_text("any"));  // of none known
  std::string published;
  for (const RemoteFile& file : entry.files) published += file.sha256 + "  " + file.name + "\n";
  EXPECT_EQ(content_id(entry, published), "");
  EXPECT_NE(content_id(known_dataset("fashion-mnist"), published), "");
}

// Sums of large files are kept, and are those of the very file.
TEST_F(Lookup, SumsOfLargeFilesAreKept) {
  const DatasetEntry& entry = *find_dataset("mnist");
  write_set("set");
  EXPECT_NE(dataset_sums(entry, folder_ / "set"), "");
  EXPECT_FALSE(fs::exists(folder_ / "cache/dsgd/sums"));
  const fs::path file = write("set/train-images-idx3-ubyte", Bytes(1 << 20, 'x'));
  const std::string sums = dataset_sums(entry, folder_ / "set");
  EXPECT_EQ(sums.substr(0, 64), sha256_text(std::string(1 << 20, 'x')));
  const fs::path kept = fs::directory_iterator(folder_ / "cache/dsgd/sums")->path();
  std::ofstream(kept) << std::string(64, 'a');
  EXPECT_EQ(dataset_sums(entry, folder_ / "set"), std::string(64, 'a') + sums.substr(64));  // it is looked at
  std::ofstream(kept) << "cut";
  EXPECT_EQ(dataset_sums(entry, folder_ / "set"), sums);
  const auto then = fs::last_write_time(file);  // another content of the same size and time
  write("set/train-images-idx3-ubyte", Bytes(1 << 20, 'y'));
  fs::last_write_time(file, then);
  EXPECT_EQ(dataset_sums(entry, folder_ / "set").substr(0, 64), sha256_text(std::string(1 << 20, 'y')));
}

TEST_F(Lookup, FashionMnistIsCompleteAndNotTakenForMnist) {
  const fs::path installed = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(installed)) GTEST_SKIP() << "package dataset-fashion-mnist is not installed";
  EXPECT_TRUE(check_dataset("fashion-mnist", "").complete());
  const DatasetEntry& entry = *find_dataset("fashion-mnist");
  EXPECT_EQ(content_id(entry, dataset_sums(entry, installed)), "");
  const Dataset set = load_dataset("fashion-mnist", "");
  for (const auto& [samples, each] : {std::pair{&set.train, 6000}, std::pair{&set.test, 1000}}) {
    ASSERT_EQ(samples->count, std::size_t(10 * each));
    for (int label = 0; label < 10; ++label)
      EXPECT_EQ(std::count(samples->labels.begin(), samples->labels.end(), label), each);
  }
  // The files of the two have the same names.
  EXPECT_NE(
      error_of([&] { load_dataset("mnist", installed); }).find(installed.string() + ": holds fashion-mnist"),
      Bytes::npos);
  for (const auto& file : check_dataset("mnist", installed).files)
    EXPECT_EQ(file.state, FileCheck::Status::missing);
}

TEST_F(Data, Sha256OfKnownTexts) {  // FIPS 180-2
  EXPECT_EQ(sha256_text("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_text(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_file(write("a", "abc")), sha256_text("abc"));
  EXPECT_EQ(sha256_file(write("z", gzip("abc"))), sha256_text(gzip("abc")));
  EXPECT_EQ(sha256_content(folder_ / "z"), sha256_text("abc"));
  EXPECT_EQ(sha256_content(folder_ / "a"), sha256_text("abc"));
  EXPECT_EQ(error_of([&] { sha256_file(folder_ / "none"); }),
            (folder_ / "none").string() + ": expected a readable file: No such file or directory");
  EXPECT_EQ(error_of([&] { sha256_file(folder_); }),
            folder_.string() + ": expected a readable file: Is a directory");
}

TEST_F(Data, CacheIsTheUsers) {
  EXPECT_EQ(cache_folder(), folder_ / "cache/dsgd");
  const std::string home = std::getenv("HOME") ? std::getenv("HOME") : "";
  setenv("HOME", "/somewhere", 1);
  for (const char* unusable : {"", "relative"}) {
    setenv("XDG_CACHE_HOME", unusable, 1);
    EXPECT_EQ(cache_folder(), "/somewhere/.cache/dsgd");
  }
  setenv("HOME", home.c_str(), 1);
}

}  // namespace
}  // namespace dsgd
