// analysis/task_words.h: the words and sentences that tasks are drawn from.

#pragma once

#include <string>
#include <utility>
#include <vector>

namespace mlxterp::words {

using Strings = std::vector<std::string>;

inline const Strings names = {
    "Mary",   "John",    "Tom",    "James",   "Dan",     "Sarah",  "David",
    "Anna",   "Michael", "Robert", "William", "Richard", "Thomas", "Charles",
    "Daniel", "Matthew", "Mark",   "Paul",    "Steven",  "Andrew", "George",
    "Edward", "Jason",   "Ryan",   "Jacob",   "Peter",   "Henry",  "Adam",
    "Scott",  "Frank",   "Jack",   "Alice",   "Jane",    "Emma",   "Laura",
    "Emily",  "Lisa",    "Helen",  "Kate",    "Rachel",  "Maria",  "Julia",
    "Lucy",   "Grace",   "Rose",   "Amy",     "Lily",    "Martin", "Simon"};

// [A] is who gets it, [B] who gives it: the order of the first two is that of
// ABBA, and turned round for BABA.
inline const Strings ioi_templates = {
    "When [A] and [B] went to the [PLACE], [B] gave a [OBJECT] to",
    "Then, [A] and [B] went to the [PLACE]. [B] gave a [OBJECT] to",
    "After [A] and [B] went to the [PLACE], [B] gave a [OBJECT] to",
    "While [A] and [B] were working at the [PLACE], [B] gave a [OBJECT] to",
    "Then, [A] and [B] had a long argument, and afterwards [B] said to",
    "Friends [A] and [B] found a [OBJECT] at the [PLACE]. [B] gave it to"};

inline const Strings places = {
    "store",
    "school",
    "office",
    "garden",
    "house",
    "station",
    "hospital",
    "park",
    "market",
    "beach",
    "museum",
    "church"};

inline const Strings objects = {
    "drink",
    "ring",
    "book",
    "ball",
    "card",
    "gift",
    "letter",
    "snack",
    "key",
    "box",
    "map",
    "coin"};

inline const Strings lasting = {
    "war",
    "battle",
    "campaign",
    "siege",
    "conflict",
    "revolution",
    "project",
    "journey",
    "voyage",
    "strike",
    "famine",
    "plague",
    "reign",
    "study",
    "marriage",
    "exile",
    "expansion"};

struct Noun {
  const char *one, *many;
};

inline const std::vector<Noun> nouns = {
    {"key", "keys"},
    {"book", "books"},
    {"car", "cars"},
    {"boy", "boys"},
    {"girl", "girls"},
    {"picture", "pictures"},
    {"teacher", "teachers"},
    {"student", "students"},
    {"doctor", "doctors"},
    {"dog", "dogs"},
    {"cat", "cats"},
    {"tree", "trees"},
    {"letter", "letters"},
    {"farmer", "farmers"},
    {"author", "authors"},
    {"friend", "friends"},
    {"horse", "horses"},
    {"bird", "birds"}};

inline const std::vector<Noun> attractors = {
    {"table", "tables"},
    {"window", "windows"},
    {"house", "houses"},
    {"door", "doors"},
    {"building", "buildings"},
    {"road", "roads"},
    {"river", "rivers"},
    {"bridge", "bridges"},
    {"wall", "walls"}};

inline const std::vector<Noun> verbs = {
    {" is", " are"}, {" was", " were"}, {" has", " have"}};

struct Relation {
  const char* prompt;  // [S] is the subject
  std::vector<std::pair<const char*, const char*>> facts;
};

inline const std::vector<Relation>& relations() {
  static const std::vector<Relation> all = {
      {"The capital of [S] is",
       {{"France", " Paris"},
        {"Germany", " Berlin"},
        {"Italy", " Rome"},
        {"Spain", " Madrid"},
        {"Japan", " Tokyo"},
        {"China", " Beijing"},
        {"Russia", " Moscow"},
        {"Egypt", " Cairo"},
        {"England", " London"},
        {"Greece", " Athens"},
        {"Austria", " Vienna"},
        {"Poland", " Warsaw"},
        {"Ireland", " Dublin"},
        {"Canada", " Ottawa"},
        {"Cuba", " Havana"},
        {"Portugal", " Lisbon"},
        {"Peru", " Lima"},
        {"Kenya", " Nairobi"}}},
      {"The main language spoken in [S] is",
       {{"France", " French"},
        {"Germany", " German"},
        {"Italy", " Italian"},
        {"Spain", " Spanish"},
        {"Japan", " Japanese"},
        {"China", " Chinese"},
        {"Russia", " Russian"},
        {"Egypt", " Arabic"},
        {"England", " English"},
        {"Greece", " Greek"},
        {"Portugal", " Portuguese"},
        {"Poland", " Polish"},
        {"Mexico", " Spanish"},
        {"Brazil", " Portuguese"},
        {"Turkey", " Turkish"},
        {"Austria", " German"}}},
      {"[S] is a country on the continent of",
       {{"France", " Europe"},
        {"Germany", " Europe"},
        {"Italy", " Europe"},
        {"Spain", " Europe"},
        {"Japan", " Asia"},
        {"China", " Asia"},
        {"India", " Asia"},
        {"Egypt", " Africa"},
        {"Kenya", " Africa"},
        {"Nigeria", " Africa"},
        {"Ghana", " Africa"},
        {"Vietnam", " Asia"},
        {"Thailand", " Asia"},
        {"Greece", " Europe"}}},
  };
  return all;
}

}  // namespace mlxterp::words
