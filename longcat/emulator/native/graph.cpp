// What torchair asks of CANN's graph engine: strings, and that engine and session start and end. The graphs themselves
// are executed operator by operator in Python, see torchair.py; whoever asks the engine to run one is refused.
#define _GLIBCXX_USE_CXX11_ABI 0  // CANN's strings are of the old kind
#include <ge/ge_api.h>
#include <graph/ascend_string.h>

namespace ge {

AscendString::AscendString(const char_t* text) : name_(text ? std::make_shared<std::string>(text) : nullptr) {}
const char_t* AscendString::GetString() const { return name_ ? name_->c_str() : ""; }
bool AscendString::operator<(const AscendString& other) const { return std::string(GetString()) < other.GetString(); }
bool AscendString::operator==(const AscendString& other) const { return std::string(GetString()) == other.GetString(); }

Status GEInitialize(const std::map<AscendString, AscendString>&) { return SUCCESS; }
Status GEFinalize() { return SUCCESS; }
std::string GEGetErrorMsg() { return {}; }

Session::Session(const std::map<AscendString, AscendString>&) {}
Session::~Session() {}

}  // namespace ge
