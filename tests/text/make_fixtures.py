"""Makes tests/text/fixtures: hard strings, tiny vocabularies, expected ids.

The oracles are llama.cpp for GGUF vocabularies and transformers for
tokenizer.json files:

    pip install llama-cpp-python==0.3.36 transformers==5.24.0 \
        tokenizers==0.23.3 gguf
    python tests/text/make_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import re
import sys

import gguf
from llama_cpp import Llama
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)
from transformers import PreTrainedTokenizerFast

FOLDER = pathlib.Path(__file__).parent / "fixtures"

STRINGS = [
    # prose
    "", " ", "a", " a", "a ", "Hello", " Hello", "Hello world",
    "The Eiffel Tower is located in the city of",
    "When Mary and John went to the store, John gave a drink to",
    "Don't, won't, I'll, she's, we've, they're, I'd, I'm.",
    "DON'T WON'T I'LL SHE'S WE'VE THEY'RE I'D I'M",
    "don\u2019t won\u2019t it\u2019s", "'s't're've'm'll'd", "'S 'T 'Re 'vE 'lL",
    "rock'n'roll o'clock 'tis", "''s '''t", "state-of-the-art e-mail",
    "Mr. Smith, Ph.D., said: \"Yes!\" (twice).", "Wait... what?!?!",
    "iPhone eBay YouTube McDonald LaTeX", "ALL CAPS AND camelCase snake_case",
    "supercalifragilisticexpialidocious", "x", "xyzzy plugh",
    # digits
    "0", "7", "42", "123", "1234", "12345", "123456", "1234567890",
    "3.14159", "1,000,000", "-1e-10", "0x1F 0b101 0o17", "2026-11-24T02:03:04Z",
    "a1b2c3", "1st 2nd 3rd 4th", "\u00bd \u00bc \u00b2\u00b3 \u2167 \u2460",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \uff11\uff12\uff13",
    "\u4e00\u4e8c\u4e09\u56db\u4e94", "9" * 50, "1 22 333 4444 55555",
    "$1.99 50% #1 @2 &3 *4", "192.168.0.1:8080",
    # whitespace
    "  ", "   ", "    a", "a    b", "a  b   c    d", " a b ", "\t", "\t\t",
    "a\tb", "\ta", "\n", "\n\n", "\n\n\n", "a\nb", "a\n\nb", "a\n b", "a \nb",
    " \n ", "\n a", "\r", "\r\n", "a\r\nb", "a\r\n\r\nb", "\r\r\n\n",
    " \t \n \r ", "a\x0bb\x0cc", "a\u00a0b", "\u00a0\u00a0", "a\u2003b\u2009c",
    "\u3000\u5168\u89d2", "a\u200bb", "a\u2028b\u2029c", "a\u0085b", "a\u1680b",
    "a\u202fb\u205f", "end with spaces   ", "end with newline\n",
    "    indented\n        more\n    back", " " * 64, "\n" * 40, "\t" * 33,
    " \n" * 20, "x" + " " * 31 + "y",
    # control characters
    "\x00", "a\x00b", "\x00\x00\x00", "\x01\x02\x03", "\x1b[31mred\x1b[0m",
    "\x7f", "\x1c\x1e\x1f", "a\x08b", "\x80\x9f", "\ufeff", "\ufeffBOM first",
    "mid\ufeffdle", "\x04 \x06 \x13",
    # punctuation and symbols
    "!", "!!!", "...", "\u2026", "---", "\u2014 \u2013 \u2212", "()[]{}<>",
    "\\ / | ~ ` ^ _ =", "\"quoted\" 'single' \u201ccurly\u201d \u00abguill\u00bb",
    "a+b=c; d*e/f", "-->", "=>", "::", "//", "/* */", "# heading", "* item",
    "[link](https://example.org/a?b=c&d=e#f)", "\u20ac\u00a3\u00a5\u20b9\u20bf",
    "\u2200x\u2208\u211d: x\u00b2\u22650", "\u2190\u2191\u2192\u2193 \u21d2",
    "\u2580\u2581\u2582 \u2581word", "\u2581", "\u2581\u2581a", "\u00ac\u00a6",
    # scripts
    "\u00e9", "caf\u00e9 na\u00efve \u00fcber \u00c5ngstr\u00f6m",
    "cafe\u0301 e\u0301\u0302\u0303", "\u0130stanbul \u0131\u015f\u0131k",
    "\u1e9e \u00df \ufb01 \ufb02 \u017f \u212a", "it'\u017f that'\u017fs",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u202eRTL override\u202c \u200fmark\u200e",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \uff76\uff80",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd",
    "\u0531\u0532\u0533 \u0561\u0562\u0563", "\u12a0\u121b\u122d\u129b",
    "\u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6", "\u0f56\u0f7c\u0f51\u0f0b",
    "\u13a3\u13b3\u13a9 \u14c0\u1403", "\u16a0\u16a2\u16a6", "\U00010330\U00010331",
    "\U0001d400\U0001d41a \U0001d7d8\U0001d7d9", "\U0001f100 \u24b6 \u3245",
    "\U00020000\U0002a6d6", "Z\u0351\u036b\u0343a\u0334\u0321l\u0357g\u0335o\u0321",
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    # emoji
    "\U0001f600", "\U0001f600\U0001f601", "a\U0001f600b", " \U0001f680 launch",
    "\U0001f44d\U0001f3fd", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1eb\U0001f1f7\U0001f1e9", "\u2764\ufe0f",
    "1\ufe0f\u20e3 #\ufe0f\u20e3", "\u263a \u2714\ufe0e",
    # not characters, private use, the edges of the planes
    "\ufffd", "\ufffe\uffff", "\ue000\uf8ff", "\U000f0000", "\U0010ffff",
    "\u07ff\u0800\ud7ff\ue000\uffff\U00010000", "\u0378\u0530",
    # code
    "def f(x):\n    return x ** 2\n", "if (a && b || !c) { d++; }",
    "<div class=\"a\">&amp;</div>", "SELECT * FROM t WHERE a='b';",
    "std::vector<int> v{1, 2, 3};", "\tfor (;;) {\n\t\tbreak;\n\t}\n",
    "{\"a\": [1, 2.5, null], \"b\": \"\\u00e9\"}", "a_b__c___d", "x=1;y=2;;z",
    "printf(\"%d\\n\", 0x7f);", "C:\\Users\\a\\b.txt ~/.cache/*",
    "$\\frac{1}{2}\\sum_{i=0}^{n}$", "user@example.org", "<!-- c --> <br/>",
    # what looks like a special token
    "<|im_start|>", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>",
    " <|im_end|> ", "<|im_start", "im_start|>", "<s>", "</s>", "<unk>",
    "<s>Hello</s>", "a<s>b", "<0x41>", "<0x0A>", "<0xZZ>", "[INST] hi [/INST]",
    "<|tool|>", "call <|tool|> now", "<|tool|><|tool|>", "<|begin_of_text|>",
    "<|im_start|><|im_start|>", "<repo_name>a/b<file_sep>",
    # long runs
    "a" * 300, "ab" * 200, "." * 257, "=" * 120, "\u00e9" * 100, "\U0001f600" * 40,
    "\u4e2d" * 120, "1" * 301, "word " * 100, "!?" * 90, "A" * 129,
    "aAbB1_-" * 30, "\r\n" * 65, "the the the " * 20,
]

# More of each kind, most of what other tokenizers are known to get wrong.
STRINGS += [
    # scripts
    "Za\u017c\xf3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "P\u0159\xedli\u0161 \u017elu\u0165ou\u010dk\xfd k\u016f\u0148",
    "\xc1rv\xedzt\u0171r\u0151 t\xfck\xf6rf\xfar\xf3g\xe9p",
    "\xdeetta reddast \xf0\xe6", "\u0126a\u0121a o\u0127ra \u010b \u0121",
    "Ti\u1ebfng Vi\u1ec7t c\xf3 d\u1ea5u",
    "Ng\u1ecdc H\u01b0ng \u0111\u01b0\u1eddng",
    "\u014b \u0253 \u0257 \u025b \u0254 \u0199", "\u02bbOlelo Hawai\u02bbi",
    "\xf1and\xfa \xbfqu\xe9? \xa1s\xed!", "\u0108u vi \u015datas \u011din?",
    "\u0142\xf3d\u017a \u0141\xd3D\u0179", "\u0220 \u0238 \u2c7f \u0242",
    "\u01c4 \u01c5 \u01c6 \u01c7 \u01c8", "\u1e9etra\xdfe STRASSE",
    "\ua730\u1d1c\u029f\u029f s\u1d0d\u1d00\u029f\u029f \u1d04\u1d00\u1d18s",
    "\ufb03 \ufb04 \ufb05 \ufb06",
    "\u210c\U0001d522\U0001d529\U0001d529\U0001d52c \U0001d54e"
    "\U0001d560\U0001d563\U0001d55d\U0001d555",
    "\uff46\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48\uff01",
    "\u1d43\u1d47\u1d9c \u2081\u2082\u2083 \u2074\u2075\u2076",
    "\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 "
    "\u03c4\u1f74\u03bd \u03c8\u03c5\u03c7\u03bf\u03c6\u03b8"
    "\u03cc\u03c1\u03b1", "\u1fb3 \u1fb4 \u1ff7 \u1f6e",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u044d"
    "\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445",
    "\u0490 \u0491 \u0404 \u0454 \u0407 \u0457",
    "\u0409\u0423\u0411\u0410\u0417\u041d\u0418 \u0444\u0435"
    "\u045a\u0435\u0440\u045f\u0438\u0458\u0430",
    "\u0462 \u0473 \u0475 \ua657",
    "\u049a\u0430\u0437\u0430\u049b \u0442\u0456\u043b\u0456 "
    "\u04a3 \u0493 \u04af",
    "\u2c03\u2c3e\u2c30\u2c33\u2c41\u2c3e\u2c39\u2c4c\u2c30",
    "\u2c98\u2c89\u2ca7\u2ca3\u2c89\u2c99\u2c9b\u2cad\u2c8f\u2c99\u2c93",
    "\u0532\u0561\u0580\u0565\u0582 \u0561\u0577\u056d\u0561\u0580\u0570",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 "
    "\u10a0 \u10d0 \u1c90",
    "\u05e2\u05b4\u05d1\u05b0\u05e8\u05b4\u05d9\u05ea \u05e2"
    "\u05dd \u05e0\u05d9\u05e7\u05d5\u05d3",
    "\u05d0\u05d1\u05d2123\u05d3\u05d4\u05d5",
    "\u0644\u064f\u063a\u064e\u0629 \u0639\u064e\u0631\u064e"
    "\u0628\u0650\u064a\u064e\u0651\u0629", "\ufdfa \ufdf2 \ufefb",
    "\u06a9\u062a\u0627\u0628\u200c\u0647\u0627 \u0648 \u06af"
    "\u0686\u200c\u067e\u0698",
    "\u0627\u0631\u062f\u0648 \u0632\u0628\u0627\u0646 \u0679 \u0688 \u0691",
    "\u0626\u06c7\u064a\u063a\u06c7\u0631\u0686\u06d5",
    "\u0710\u072a\u0721\u071d\u0710", "\u078b\u07a8\u0788\u07ac\u0780\u07a8",
    "\u07d2\u07de\u07cf", "\u0800\u0801\u0802",
    "\U00010900\U00010901\U00010902", "\U0001e900\U0001e901\U0001e902",
    "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f \u091c"
    "\u094d\u091e\u093e\u0928 \u0936\u094d\u0930\u0940",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 "
    "\u0967\u0968\u0969",
    "\u0995\u09cd\u09b7\u09c1\u09a6\u09cd\u09b0 \u09ac\u09be"
    "\u0982\u09b2\u09be",
    "\u0a17\u0a41\u0a30\u0a2e\u0a41\u0a16\u0a40 \u0a2a\u0a70"
    "\u0a1c\u0a3e\u0a2c\u0a40",
    "\u0a97\u0ac1\u0a9c\u0ab0\u0abe\u0aa4\u0ac0 \u0aad\u0abe\u0ab7\u0abe",
    "\u0b13\u0b21\u0b3c\u0b3f\u0b06 \u0b2d\u0b3e\u0b37\u0b3e",
    "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0bae\u0bca\u0bb4\u0bbf \u0be7\u0be8",
    "\u0c24\u0c46\u0c32\u0c41\u0c17\u0c41 \u0c2d\u0c3e\u0c37",
    "\u0c95\u0ca8\u0ccd\u0ca8\u0ca1 \u0cad\u0cbe\u0cb7\u0cc6",
    "\u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02 \u0d2d\u0d3e\u0d37 \u0d7a \u0d7b",
    "\u0dc3\u0dd2\u0d82\u0dc4\u0dbd \u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "\u1c65\u1c5f\u1c71\u1c5b\u1c5f\u1c72\u1c64", "\uabc3\uabe4\uabc7\uabe9",
    "\U0001110c\U0001110b\U00011134\U0001111f\U00011133\U00011126",
    "\u0f00\u0f58\u0f4e\u0f72\u0f54\u0f51\u0fa8\u0f7a\u0f67\u0f71\u0f74\u0f83",
    "\u0938\u0902\u0938\u094d\u0915\u0943\u0924\u092e\u094d \u0950 \u0965",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0e44\u0e21"
    "\u0e48\u0e21\u0e35\u0e40\u0e27\u0e49\u0e19\u0e27\u0e23\u0e23\u0e04",
    "\u0e9e\u0eb2\u0eaa\u0eb2\u0ea5\u0eb2\u0ea7",
    "\u1019\u103c\u1014\u103a\u1019\u102c\u1018\u102c\u101e\u102c",
    "\u1797\u17b6\u179f\u17b6\u1781\u17d2\u1798\u17c2\u179a "
    "\u17e1\u17e2\u17e3", "\ua9a7\ua9b1\ua997\ua9ae",
    "\u1b29\u1b32\u1b29\u1b2e\u1b36",
    "\u1b98\u1b9e \u1b9e\u1ba5\u1b94\u1baa\u1b93",
    "\u1706\u1704\u170e\u1713\u1704\u1714", "\u1a12\u1a1a\u1a08\u1a11",
    "\uaa0c\uaa4c", "\u6f22\u5b57\u4eee\u540d\u4ea4\u3058\u308a\u6587",
    "\u3072\u3089\u304c\u306a\u3001\u30ab\u30bf\u30ab\u30ca\u3002",
    "\uff8a\uff9d\uff76\uff78 \uff76\uff9e\uff77\uff9e\uff78\uff9e",
    "\u304c \u304b\u309b \u304b\u3099", "\u3005\u3006\u30f6\u3007",
    "\u9f8d\u9f9c\u9f8d \u9fff \u3400 \u4dbf",
    "\U00020bb7\u91ce\u5bb6 \U00029e3d",
    "\u7b80\u4f53\u5b57\u4e0e\u7e41\u9ad4\u5b57",
    "\u6ce8\u97f3\u3105\u3106\u3107\u3108",
    "\ud55c\uad6d\uc5b4 \ub744\uc5b4\uc4f0\uae30",
    "\u3131\u3134\u3137 \u314f\u3151", "\ud7a3 \uac00 \uac01",
    "\u1100\u119e \uc61b\ud55c\uae00", "\ua000\ua001\ua002 \u5f5d",
    "\u182e\u1823\u1829\u182d\u1823\u182f", "\U00017000\U00017001",
    "\U0001f202\ufe0f\u3297\ufe0f\u3299\ufe0f",
    "\u2460\u2461\u2462 \u3220\u3221 \u3314\u334d", "\u301c\uff5e\u2016\u2225",
    "\u300c\u5f15\u7528\u300d\u300e\u4e8c\u91cd\u300f",
    "\u12a0\u121b\u122d\u129b \u124b\u1295\u124b\u1361\u1361",
    "\u2d5c\u2d30\u2d4e\u2d30\u2d63\u2d49\u2d56\u2d5c", "\ua559\ua524",
    "\u14c0\u1426\u1403\u152d\u140d\u140f\u1423",
    "\u13e3\u13b3\u13a9 \uabb3\uab83\uab79",
    "\U00010414\U0001042f\U00010445\U00010428\U00010449\U0001042f\U0001043b",
    "\U00013000\U00013050\U00013080", "\U00012000\U00012040\U00012080",
    "\U00010380\U00010381", "\U00010330\U00010331\U00010332",
    "\u16a0\u16a2\u16a6\u16a8\u16b1\u16b2",
    "\u16d2\u16d6\u16cf\u16eb\u16a9\u16be", "\u2813\u2811\u2807\u2807\u2815",
    "\U0001d11e\U0001d122\U0001d158\U0001d165\U0001d16e",
    "\U0001f0a1\U0001f0a2\U0001f004", "\u2630\u2637\u4dc0",
    "\u026ant\u0259\u02c8n\xe6\u0283\u0259n\u0259l f\u0259\u02c8"
    "n\u025bt\u026ak",
    # emoji
    "\U0001f600\U0001f603\U0001f604\U0001f601\U0001f606",
    "\U0001f44b\U0001f3fb\U0001f44b\U0001f3fc\U0001f44b"
    "\U0001f3fd\U0001f44b\U0001f3fe\U0001f44b\U0001f3ff",
    "\U0001f469\u200d\U0001f4bb \U0001f468\u200d\U0001f692",
    "\U0001f468\u200d\U0001f468\u200d\U0001f467\u200d\U0001f466",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001f3f3\ufe0f\u200d\u26a7\ufe0f",
    "\U0001f1ef\U0001f1f5\U0001f1f0\U0001f1f7\U0001f1e8\U0001f1f3",
    "\U0001f1e6", "\u2764\ufe0f\u200d\U0001f525", "\u260e\ufe0f \u260e\ufe0e",
    "5\ufe0f\u20e3*\ufe0f\u20e3", "\U0001fae0\U0001fae1\U0001fae5",
    "\U0001f9d1\U0001f3fd\u200d\U0001f91d\u200d\U0001f9d1\U0001f3ff",
    "\xa9\ufe0f\xae\ufe0f\u2122\ufe0f", "emoji\U0001f60ainside",
    "\U0001f60a after space", "a\U0001f60a\U0001f60a\U0001f60ab",
    "\U0001f408\u200d\u2b1b\U0001f43b\u200d\u2744\ufe0f",
    "\u26a1\ufe0f\U0001f329\ufe0f", "\U0001f441\ufe0f\u200d\U0001f5e8\ufe0f",
    "\U0001f937\U0001f3fd\u200d\u2640\ufe0f?!", "\U0001f972\u200d",
    "\ufe0f\ufe0f", "\U0001f51f\U0001f4af", "\U0001f980rust\U0001f40dpy",
    # digits
    "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669",
    "\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7\u06f8\u06f9",
    "\u07c0\u07c1\u07c2\u07c3\u07c4\u07c5\u07c6\u07c7\u07c8\u07c9",
    "\u0966\u0967\u0968\u0969\u096a\u096b\u096c\u096d\u096e\u096f",
    "\u09e6\u09e7\u09e8\u09e9\u09ea\u09eb\u09ec\u09ed\u09ee\u09ef",
    "\u0a66\u0a67\u0a68\u0a69\u0a6a\u0a6b\u0a6c\u0a6d\u0a6e\u0a6f",
    "\u0ae6\u0ae7\u0ae8\u0ae9\u0aea\u0aeb\u0aec\u0aed\u0aee\u0aef",
    "\u0b66\u0b67\u0b68\u0b69\u0b6a\u0b6b\u0b6c\u0b6d\u0b6e\u0b6f",
    "\u0be6\u0be7\u0be8\u0be9\u0bea\u0beb\u0bec\u0bed\u0bee\u0bef",
    "\u0c66\u0c67\u0c68\u0c69\u0c6a\u0c6b\u0c6c\u0c6d\u0c6e\u0c6f",
    "\u0ce6\u0ce7\u0ce8\u0ce9\u0cea\u0ceb\u0cec\u0ced\u0cee\u0cef",
    "\u0d66\u0d67\u0d68\u0d69\u0d6a\u0d6b\u0d6c\u0d6d\u0d6e\u0d6f",
    "\u0e50\u0e51\u0e52\u0e53\u0e54\u0e55\u0e56\u0e57\u0e58\u0e59",
    "\u0ed0\u0ed1\u0ed2\u0ed3\u0ed4\u0ed5\u0ed6\u0ed7\u0ed8\u0ed9",
    "\u0f20\u0f21\u0f22\u0f23\u0f24\u0f25\u0f26\u0f27\u0f28\u0f29",
    "\u1040\u1041\u1042\u1043\u1044\u1045\u1046\u1047\u1048\u1049",
    "\u17e0\u17e1\u17e2\u17e3\u17e4\u17e5\u17e6\u17e7\u17e8\u17e9",
    "\u1810\u1811\u1812\u1813\u1814\u1815\u1816\u1817\u1818\u1819",
    "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19",
    "\U0001d7ce\U0001d7cf\U0001d7d0\U0001d7d1\U0001d7d2"
    "\U0001d7d3\U0001d7d4\U0001d7d5\U0001d7d6\U0001d7d7", "00 000 0000", "007",
    "1_000_000", "1'000'000", "1.000,50", "1e308 -1E+9", "0b1010 0xDEADBEEF",
    "\xbd\u2153\xbc\u2155", "\u2163 \u217b \u2182", "1\xb23\xb3",
    "\u0661\u0662\u0663\u066c\u0664\u0665\u0666", "3\xbd", "#123456",
    "v1.2.3-rc4", "+1 (555) 010-9999", "99%", "10:30:59.999", "12\xd734\xf75=",
    "2\xb3\xb2\u22121", "1/2/2026",
    # code
    "#include <vector>\n#define X(a) ((a) * 2)\n",
    "fn main() {\n    println!(\"{:?}\", vec![1, 2]);\n}",
    "let f = async (x) => await x?.y ?? `z${x}`;",
    "class A<T extends B> implements C { }",
    "SELECT COUNT(*) FROM \"t\" GROUP BY 1;\n-- done",
    "for i in $(seq 1 10); do echo \"$i\"; done",
    "@decorator\ndef f(*args, **kw): ...", "lambda x: x if x else -x",
    "a[1:2, ..., ::-1]", "x <<= 1; y >>>= 2; z ^= ~w",
    "if (!p->q && *r != &s) return;", "#!/bin/sh\nset -e\n",
    "<?php echo $x['y']; ?>", "{{ template | filter }}",
    "\\begin{equation} x^2 \\end{equation}", "---\nkey: value\n- item\n...",
    "[section]\nkey=value\n", "| a | b |\n|---|---|\n",
    "```python\nprint(1)\n```", "s/\\(a\\)\\1/b/g",
    "^[A-Za-z0-9._%+-]+@[a-z]{2,}$", "\\d+\\.\\d*|\\s", "0.1 + 0.2 != 0.3",
    "fmt::print(\"{:>8.3f}\\n\", x);", "std::unique_ptr<T[]>&&",
    "mov eax, [ebx+4*ecx]", "(defun f (x) (* x x))", "f . g $ h <$> x >>= y",
    "val x: List[Int] = Nil", "type T = { [K in keyof U]?: U[K] }",
    "SGVsbG8gd29ybGQ=", "550e8400-e29b-41d4-a716-446655440000",
    "https://ja.wikipedia.org/wiki/%E6%97%A5", "file:///C:/a%20b.txt",
    "\\u0041\\x41\\101\\n", "<![CDATA[ ]]>", "&lt;&#65;&#x41;",
    "$HOME/${x:-y}/`z`", "git diff --no-index a/ b/",
    "@@ -1,2 +1,2 @@\n-a\n+b\n",
    # mixed, and marks that combine
    "na\xefve\u041f\u0440\u0438\u0432\u0435\u0442\u4f60\u597d",
    "abc\u0430\u0431\u0432", "a.b,c;d:e",
    "\u65e5\u672c\u8a9eEnglish\u6df7\u5728", "price:\uffe51,000\u5186",
    "\xab\u041f\u0440\u0438\u0432\u0435\u0442\xbb, \u2014 \u0441"
    "\u043a\u0430\u0437\u0430\u043b \u043e\u043d.",
    "\u201eAnf\xfchrung\u201c \u201aso\u2018",
    "(\ufe36\ufe39\ufe3a) \xaf\\_(\u30c4)_/\xaf", "\xa1\xbf\u203d\u2047\u2049",
    "\u2026\u2025\u2024", "\u2013\u2014\u2015\u2012",
    "\u2039\u203a\xab\xbb\u201e\u201c\u201d",
    "\u2032\u2033\u2034 5\u203210\u2033", "a\u0301\u0301\u0301b",
    "\u0301 alone", "e\u0301 vs \xe9", "\u1100\u1161 vs \uac00",
    "\u212b \xc5 A\u030a", "o\u0308o\u0308o\u0308", "x\u0336y\u0336z\u0336",
]

# Every kind of space, alone and in runs, and what controls.
SPACES = ([*range(0x09, 0x0E), 0x85, 0xA0, 0x1680, 0x180E]
          + [*range(0x2000, 0x200E), 0x2028, 0x2029, 0x202F, 0x205F, 0x2060,
             0x3000, 0xFEFF])
STRINGS += [f"x{chr(c)}y{chr(c)}{chr(c)} z{chr(c)}" for c in SPACES]
CONTROLS = [
    0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x0E, 0x0F, 0x10, 0x11, 0x12,
    0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1B, 0x1D, 0x7F, 0x80, 0x84,
    0x86, 0x8D, 0x90, 0x9B, 0x9C, 0x9F, 0xAD, 0x200E, 0x2066, 0x2069, 0xFFF9,
    0xFFFB, 0xE0001, 0xFDD0]
STRINGS += ["p" + "q".join(map(chr, CONTROLS[i:i + 3])) + " r"
            for i in range(0, len(CONTROLS), 3)]
assert len(STRINGS) == 500, len(STRINGS)

# Not UTF-8: lone and cut characters, overlong ones, surrogates, what is above
# the last plane; between text and at both ends.
BYTES = [bytes.fromhex(h) for h in (
    "ff", "fe", "80", "bf", "c3", "e4bd", "f09f98", "c080", "c1bf", "e08080",
    "f0808080", "eda080", "edb080", "eda080edb080", "f4908080", "f8888080",
    "fffe", "feff", "61ff", "ff61", "61ff62", "6120ff2062", "ffff61ffff",
    "e4bda0ff", "ffe4bda0", "c3a9c3", "61c3", "61c362", "f09f9880f09f",
    "f09f98f09f9880", "20ff", "ff20", "0aff0a", "00ff00", "80808080",
    "48656c6c6f20ff20776f726c64", "e282", "e28261", "efbfbdff", "3132ff3334")]

CORPUS = [
    "The quick brown fox jumps over the lazy dog. " * 4,
    "When Mary and John went to the store, John gave a drink to Mary. " * 4,
    "The city of Paris is in France; the tower is located in the city. " * 4,
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(i)\n" * 4,
    "It's what they're saying: I'll, you'd, we've, don't, I'M, SHE'S. " * 4,
    "In 1999, 2024 and 2026 there were 123 of 1,000,000. 12345 100 200 " * 4,
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440 " * 6,
    "\u4f60\u597d\u4e16\u754c\uff0c\u4f60\u597d\u3002" * 6,
    "caf\u00e9 na\u00efve \U0001f600 \U0001f680 " * 6,
    "a    b        c\n\n\n\td\r\n\r\n !!\n\n?\r\n" * 6,
    "1 22 333 4444 55555 666666 1234567890 (a)[b]{c} x=1;y=2;; ... $1.99 " * 4,
]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (FOLDER / name).write_text(text + "\n")


def byte_level(pattern, normalizer, specials, bos):
    """A byte-level BPE of about 700 tokens. It is trained on whole lines, so
    that a word boundary in the wrong place always shows in the ids."""
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator(
        [part for text in CORPUS for part in text.split(". ")],
        trainers.BpeTrainer(
            vocab_size=700, show_progress=False, max_token_length=6,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = bos is not None
    tokenizer = Tokenizer.from_str(json.dumps(data))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), words])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(s, special=True, normalized=False) for s in specials])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[
                (bos, tokenizer.token_to_id(bos))])
    return tokenizer


def pieces():
    """(text, score, type) of a SentencePiece-like BPE."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    # Like the real ones, it has no piece with a line break.
    merged = [p for p in dict.fromkeys(a + b for a, b in model["merges"])
              if not set(p) & set("\r\n")]
    kinds = gguf.TokenType
    out = [("<unk>", 0.0, kinds.UNKNOWN), ("<s>", 0.0, kinds.CONTROL),
           ("</s>", 0.0, kinds.CONTROL)]
    out += [(f"<0x{b:02X}>", 0.0, kinds.BYTE) for b in range(256)]
    out += [(p, -float(i), kinds.NORMAL) for i, p in enumerate(merged)]
    characters = [c for c in model["vocab"] if len(c) == 1 and c not in "\r\n"]
    for c in characters:
        out.append((c, -float(len(out)), kinds.NORMAL))
    return out + [("<|tool|>", 0.0, kinds.USER_DEFINED)]


def sentence_piece(entries, legacy):
    """The tokenizer.json that Hugging Face converts such a model to."""
    vocab = {text: i for i, (text, _, _) in enumerate(entries)}
    merges = []
    for text, score, kind in entries:
        if kind != gguf.TokenType.NORMAL:
            continue
        for cut in range(1, len(text)):
            if text[:cut] in vocab and text[cut:] in vocab:
                merges.append((-score, (text[:cut], text[cut:])))
    merges = [pair for _, pair in sorted(merges, key=lambda m: m[0])]
    tokenizer = Tokenizer(models.BPE(
        vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(),
             decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([
        AddedToken(s, special=True, normalized=False)
        for s in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def write_gguf(name, model, pre, tokens, kinds, merges=None, scores=None,
               bos=None, space=True):
    writer = gguf.GGUFWriter(str(FOLDER / name), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    writer.add_bos_token_id(bos if bos is not None else 0)
    writer.add_eos_token_id(len(tokens) - 2)
    writer.add_add_bos_token(bos is not None)
    if not space:
        writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def gguf_of(name, tokenizer, pre, bos):
    data = json.loads(tokenizer.to_str())
    added = {t["id"]: t for t in data["added_tokens"]}
    size = tokenizer.get_vocab_size()
    kinds = [gguf.TokenType.NORMAL] * size
    for i, token in added.items():
        kinds[i] = (gguf.TokenType.CONTROL if token["special"]
                    else gguf.TokenType.USER_DEFINED)
    write_gguf(
        name, "gpt2", pre, [tokenizer.id_to_token(i) for i in range(size)],
        kinds, merges=[" ".join(m) for m in data["model"]["merges"]], bos=bos)


def llama_ids(path):
    """Plain ids, and ids with BOS and special tokens read as such."""
    model = Llama(str(path), vocab_only=True, verbose=False)
    return [[model.tokenize(s.encode(), add_bos=False, special=False),
             model.tokenize(s.encode(), add_bos=True, special=True)]
            for s in STRINGS]


def transformers_ids(path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
    return [[tokenizer(s, add_special_tokens=False, split_special_tokens=True)
             .input_ids, tokenizer(s).input_ids] for s in STRINGS]


def bytes_ids(tokenizer):
    """By definition: text as the tokenizer has it, with a space in front only
    at the start; each byte that is no text as the token of that byte. (Of
    llama.cpp such a byte takes the text behind it along.)"""
    inner = Tokenizer.from_str(tokenizer.to_str())
    alphabet = None
    if isinstance(inner.decoder, decoders.ByteLevel):
        alphabet = byte_alphabet()
    elif inner.normalizer:
        inner.normalizer = normalizers.Replace(" ", "\u2581")
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme="never", split=False)
    plain = lambda by, s: by.encode(s, add_special_tokens=False).ids
    prefixed = plain(tokenizer, "a") != plain(inner, "a")
    out = []
    for data in BYTES:
        ids = []
        text = data.decode("utf-8", "surrogateescape")
        if prefixed and "\udc80" <= text[0] <= "\udcff":
            ids += plain(inner, " ")
        for piece in re.split("([\udc80-\udcff])", text):
            if re.fullmatch("[\udc80-\udcff]", piece):
                byte = ord(piece) - 0xDC00
                ids.append(tokenizer.token_to_id(
                    alphabet[byte] if alphabet else f"<0x{byte:02X}>"))
            elif piece:
                ids += plain(inner if ids else tokenizer, piece)
        out.append(ids)
    return out


def byte_alphabet():
    """GPT-2's character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others))
            for b in range(256)]


def missing(path):
    """Indices of strings with a byte that the vocabulary lacks."""
    tokens = set(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
                 .contents())
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [i for i, s in enumerate(STRINGS) for words in
            [spell.pre_tokenize_str(s)]
            if any(c not in tokens for word, _ in words for c in word)]


def main(demo):
    assert len(set(STRINGS)) == len(STRINGS), "a string stands twice"
    FOLDER.mkdir(exist_ok=True)
    write("strings.json", STRINGS)
    write("bytes.json", [b.hex() for b in BYTES])

    ids = llama_ids(demo)
    for i in missing(demo):
        ids[i] = None
    write("smollm2.ids.json", ids)

    specials = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"]
    llama3 = byte_level(LLAMA3, None, specials, "<|begin_of_text|>")
    qwen2 = byte_level(QWEN2, normalizers.NFC(), specials, None)
    entries = pieces()
    for name, tokenizer in (
            ("llama3", llama3), ("qwen2", qwen2),
            ("sentencepiece", sentence_piece(entries, legacy=True)),
            ("metaspace", sentence_piece(entries, legacy=False))):
        write(name + ".tokenizer.json", json.loads(tokenizer.to_str()))
        write(name + ".tokenizer.ids.json",
              transformers_ids(FOLDER / (name + ".tokenizer.json")))
        tokenizer.encode_special_tokens = True
        write(name + ".tokenizer.bytes.json", bytes_ids(tokenizer))

    bos = llama3.token_to_id("<|begin_of_text|>")
    gguf_of("llama-bpe.gguf", llama3, "llama-bpe", bos)
    gguf_of("bpe.gguf", qwen2, "qwen2", None)
    write_gguf(
        "spm.gguf", "llama", None, [e[0] for e in entries],
        [e[2] for e in entries], scores=[e[1] for e in entries], bos=1)
    # As Gemma's: no space before the first word.
    write_gguf(
        "gemma.gguf", "llama", None, [e[0] for e in entries],
        [e[2] for e in entries], scores=[e[1] for e in entries], bos=1,
        space=False)
    for name in ("llama-bpe", "spm", "gemma"):
        write(name + ".ids.json", llama_ids(FOLDER / (name + ".gguf")))
    pieces_of_spm = sentence_piece(entries, legacy=True)
    write("spm.bytes.json", bytes_ids(pieces_of_spm))
    pieces_of_spm.normalizer = normalizers.Replace(" ", "\u2581")
    write("gemma.bytes.json", bytes_ids(pieces_of_spm))
    # The tests put another pre-tokenizer's name into bpe.gguf.
    for pre in ("default", "gpt-2", "smollm", "smaug-bpe", "qwen2"):
        scratch = FOLDER / "scratch.gguf"
        gguf_of(scratch.name, qwen2, pre, None)
        write(pre + ".ids.json", llama_ids(scratch))
        scratch.unlink()
    print(len(STRINGS), "strings")


if __name__ == "__main__":
    main(sys.argv[1])
