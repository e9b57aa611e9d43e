// SPDX-License-Identifier: Apache-2.0
// Any line on the control socket, as a request and as a response. What was understood is the same after another trip.
#include <string>

#include "agent/control_protocol.hpp"
#include "fuzz/targets/target.hpp"

using namespace fiplane;

namespace {

void check_request(const std::string& line) {
    const auto request = decode_request(line);
    if (!request) return fuzz::demand(!request.error().what.empty());
    fuzz::demand(!request->verb.empty() && request->text("verb") == request->verb);
    const auto again = decode_request(encode_request(request->arguments));
    fuzz::demand(again.has_value() && again->arguments == request->arguments);
}

void check_response(const std::string& line) {
    const Response response = decode_response(line);
    const std::string encoded = encode_response(response);
    fuzz::demand(encoded.find('\n') == encoded.size() - 1);
    const Response again = decode_response(encoded);
    fuzz::demand(again.has_value() == response.has_value());
    if (response) return fuzz::demand(*again == *response);
    fuzz::demand(again.error().error.code == response.error().error.code &&
                 again.error().mistakes == response.error().mistakes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string line(fuzz::text_of(data, size));
    check_request(line);
    check_response(line);
    return 0;
}
