// Runs an AOTInductor package: run_package PACKAGE INPUTS OUTPUTS. INPUTS, written by torch.save,
// is a list of tensors; OUTPUTS, for torch.load, is a tuple of the model's outputs. The package
// names convt3d's operators, which are there because this program is linked to the library.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: run_package PACKAGE INPUTS OUTPUTS\n";
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const c10::IValue inputs = torch::jit::pickle_load(bytes);

  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  std::vector<c10::IValue> outputs;
  for (const c10::IValue& input : inputs.toListRef())
    outputs.push_back(model.run({input.toTensor()}).at(0));

  const std::vector<char> saved =
      torch::jit::pickle_save(c10::ivalue::Tuple::create(std::move(outputs)));
  std::ofstream(argv[3], std::ios::binary)
      .write(saved.data(), static_cast<std::streamsize>(saved.size()));
}
