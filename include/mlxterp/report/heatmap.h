// mlxterp/report/heatmap.h: numbers of two axes with all that is to be read
// beside them; view/heatmap.h shows it.

#pragma once

#include <string>
#include <utility>
#include <vector>

namespace mlxterp::report {

/** A prompt as it is shown above a picture. */
struct PromptLine {
  std::string name = {};  ///< "clean", "corrupted", "prompt"
  std::vector<std::string> tokens = {};
  std::vector<size_t> marked = {};  ///< Of these, those that stand out.
};

/** Values of two axes. Texts are as they are; the views escape them. */
struct Heatmap {
  std::string kind = {};      ///< "Activation patching": above the heading.
  std::string heading = {};   ///< What it is of: a prompt.
  std::string about = {};     ///< A sentence or two on how to read it.
  std::string takeaway = {};  ///< What it shows, in a sentence.
  std::vector<std::string> warnings = {};  ///< Why it may mislead.
  std::vector<PromptLine> prompts = {};
  /** What was asked for, in the order shown: ("site", "z"). */
  std::vector<std::pair<std::string, std::string>> facts = {};
  std::string row_axis = {}, column_axis = {};  ///< "layer", "pos"
  /** From top to bottom, the last layer first; from left to right. */
  std::vector<std::string> rows = {}, columns = {};
  /** Under the columns' names, where there is more to say: the prompt's tokens.
   */
  std::vector<std::string> notes = {};
  std::vector<float> values = {};  ///< [row, column] flat.
  /** Shown as percent (1 is 100) and else as they are. */
  bool percent = false;
  float neutral = 0;  ///< The value of a cell that changes nothing.
  /** What each cell says instead of its number; empty: its number. */
  std::vector<std::string> labels = {};
  /** Each cell's colour where it is not its sign that decides: 'w' warm, 'c'
   * cold, 'o' grey, for what is there in every picture, '0' none. */
  std::string hues = {};
  std::vector<std::pair<char, std::string>> hue_names = {};  ///< ('w', "F")
  /** Cells that cannot act, whatever the model does; empty: not known. */
  std::vector<bool> inert = {};
  /** What they are called, and why they cannot. */
  std::string inert_name = "cannot act";
  std::string inert_text =
      "Cannot act: what it changes is the same in both runs, or is never read.";
  /** More of each cell, a value each: "change", "exact". */
  struct Detail {
    std::string name = {};
    std::vector<float> values = {};
    bool percent = false;
  };
  std::vector<Detail> details = {};
  /** What every cell is compared with: ("clean", 6.12f). */
  std::vector<std::pair<std::string, float>> bounds = {};

  /** "layer 17, pos 13 ( to)"; of layers by heads "L9H3", "z of L9H3". */
  std::string place(size_t row, size_t column) const;
  /** At most `n` cells, those farthest from neutral first; never NaN, what
   * cannot act or is grey. */
  std::vector<size_t> largest(size_t n) const;
};

}  // namespace mlxterp::report
