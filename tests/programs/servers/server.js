// A server of Node that says when it is ready, and stops listening when it is told to stop.
const server = require('http').createServer((request, response) => {
    response.end(`worker=${process.env.EINHORN_CHILD_INDEX} pid=${process.pid} seq=0\n`);
});
server.listen({ fd: 3 }, () => require('fs').writeSync(+process.env.NOTIFY_FD, '\n'));
process.on('SIGTERM', () => server.close());
